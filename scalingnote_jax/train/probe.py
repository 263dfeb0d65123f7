"""Whether the student follows its teacher where it matters: LLM vectors lie in a narrow cone, so a
cosine of .98 may still be that of any two queries.

`cone` looks at a batch, as part of a step. `Probe` looks at texts that are not learned, now and
then: the same figures, and how many of the teacher's ten best documents the student finds. `alarms`
says which of them a student should not ship with. None of it changes what is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.models.layers.params import nest
from scalingnote_jax.models.tower import TowerDef, normalise
from scalingnote_jax.retrieval.exact import exact_search, overlap
from scalingnote_jax.text.tokens import TokenTable, bucket_of
from scalingnote_jax.train.state import TrainState
from scalingnote_jax.vectors.encoder import jit_apply, unit_rows
from scalingnote_jax.vectors.store import VectorStore

BEST = 10  # documents of which the student should find the teacher's
MOST_DOCUMENTS = 100_000  # of a larger corpus, evenly spaced: a probe must stay cheap
_BLOCK = 65_536  # rows at a time
# At which students were seen to lose recall on unseen entities (docs/distillation.md)
LOW_OVERLAP, WIDE_SWING, LOW_RANK = 0.7, 0.1, 0.6


def cone(student_raw: jax.Array, teacher_raw: jax.Array, mean: jax.Array) -> dict[str, jax.Array]:
    """Figures of a batch, each a number.

    Args:
        student_raw, teacher_raw: [B, D] float32, of the same texts.
        mean: [D], the mean of the teacher's unit query vectors.

    Returns:
        "centred_cosine": mean cosine of student and teacher after `mean` is taken off both: what is
        left of the agreement without that of any two queries. "student_pair_cosine" and
        "teacher_pair_cosine": mean cosine of two different rows. "student_rank" and "teacher_rank":
        see `effective_rank`.
    """
    student, teacher = normalise(student_raw), normalise(teacher_raw)
    agreement = (normalise(student - mean) * normalise(teacher - mean)).sum(-1).mean()
    return {
        "centred_cosine": agreement,
        "student_pair_cosine": pair_cosine(student),
        "teacher_pair_cosine": pair_cosine(teacher),
        "student_rank": effective_rank(student),
        "teacher_rank": effective_rank(teacher),
    }


def alarms(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What speaks against the student at the end of a training, a sentence each.

    Args:
        records: of its `metrics.jsonl`. The last third of the looks counts: a student on its way
            may look as bad.
    """
    looks = [r for r in records if "heldout_student_rank" in r]
    looks = looks[-max(1, len(looks) // 3) :]
    found = []
    overlaps = [r[name] for r in looks if (name := f"heldout_overlap@{BEST}") in r]
    if overlaps and overlaps[-1] < LOW_OVERLAP:
        found.append(
            f"it finds {overlaps[-1]:.0%} of the teacher's {BEST} best documents of texts that it "
            f"did not learn (alarm below {LOW_OVERLAP:.0%})"
        )
    if overlaps and max(overlaps) - min(overlaps) > WIDE_SWING:
        found.append(
            f"that share still swings between {min(overlaps):.0%} and {max(overlaps):.0%} "
            f"(alarm above {WIDE_SWING:.0%})"
        )
    if looks:
        ratio = looks[-1]["heldout_student_rank"] / max(looks[-1]["heldout_teacher_rank"], 1e-9)
        if ratio < LOW_RANK:
            found.append(
                f"its vectors differ in {ratio:.2f} times as many directions as the teacher's "
                f"(alarm below {LOW_RANK})"
            )
    return found


def pair_cosine(emb: jax.Array) -> jax.Array:
    """Mean cosine of two different rows of [B, D] unit vectors."""
    rows = len(emb)
    return (jnp.square(emb.sum(0)).sum() - rows) / max(rows * (rows - 1), 1)


def effective_rank(emb: jax.Array) -> jax.Array:
    """In how many directions [B, D] vectors differ from their mean: (Σλ)² / Σλ² over the
    eigenvalues λ of their covariance, the participation ratio. At most B - 1 and D; with no
    decomposition.
    """
    centred = emb - emb.mean(0)
    products = jnp.einsum("bd,cd->bc", centred, centred, precision="highest")
    smallest = jnp.finfo(jnp.float32).tiny
    return jnp.square(jnp.trace(products)) / jnp.maximum(jnp.square(products).sum(), smallest)


def mean_unit(vectors: np.ndarray) -> np.ndarray:
    """[D] float32, the mean of the unit vectors of [n, D] raw ones."""
    blocks = range(0, len(vectors), _BLOCK)
    total = sum(unit_rows(vectors[i : i + _BLOCK]).sum(0, dtype=np.float64) for i in blocks)
    return np.asarray(total / len(vectors), np.float32)


def encode_again(
    tower: TowerDef, table: TokenTable, mesh: Mesh
) -> Callable[[dict[str, Any]], np.ndarray]:
    """The tower's parameters → [len(table), D] float32 of the same few texts each time, as one
    batch.
    """
    shards = mesh_lib.batch_shards(mesh)
    rows = np.arange(-(-len(table) // shards) * shards) % len(table)
    own = rows[mesh_lib.own_rows(mesh, len(rows))]
    length = bucket_of(int(table.lengths.max()), tower.cfg.text.buckets)
    tokens, mask = table.take(own, length)
    batch = mesh_lib.put_batch({"tokens": tokens, "mask": mask}, mesh)
    apply = jit_apply(tower, mesh)
    return lambda params: np.asarray(apply(params, batch["tokens"], batch["mask"]))[: len(table)]


@dataclass
class Probe:
    """Watches the student on texts that it does not learn. Called by the training loop at its log
    steps; every process takes part.

    Attributes:
        encode: the student's parameters → [P, D], its vectors of the texts.
        teacher_raw: [P, D], the teacher's of the same.
        mean: as for `cone`.
        store: the frozen document vectors; None where there are none yet.
        every, log_every, total: steps.
    """

    encode: Callable[[dict[str, Any]], np.ndarray]
    teacher_raw: np.ndarray
    mean: np.ndarray
    store: VectorStore | None
    every: int
    log_every: int
    total: int

    def __post_init__(self) -> None:
        self._figures = jax.jit(cone)
        if self.store is not None:
            n = len(self.store)
            rows = np.linspace(0, n - 1, min(n, MOST_DOCUMENTS)).astype(np.int64)
            self._documents = self.store.on_disk().take(rows)
            self._best = self._search(self.teacher_raw)

    def due(self, step: int) -> bool:
        """Whether a multiple of `every` lies behind the log step before this one."""
        before = (step - 1) // self.log_every * self.log_every
        return step == self.total or step // self.every > before // self.every

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        """The figures of `cone`, and "overlap@10" if there is a store, each "heldout_…"; {} at a
        step that is not due.
        """
        if not self.due(step):
            return {}
        raw = self.encode(nest(state.params | state.frozen)["student"])
        figures: dict[str, Any] = dict(self._figures(raw, self.teacher_raw, self.mean))
        if self.store is not None:
            found = self._search(raw)
            figures[f"overlap@{BEST}"] = overlap(self._best, found, found.shape[1])
        return {f"heldout_{name}": round(float(x), 6) for name, x in figures.items()}

    def _search(self, raw: np.ndarray) -> np.ndarray:
        """[q, 10] rows of the documents' best."""
        queries = unit_rows(raw[:, : self._documents.shape[1]])
        k = min(BEST, len(self._documents))
        return exact_search(queries, self._documents, k)[1]
