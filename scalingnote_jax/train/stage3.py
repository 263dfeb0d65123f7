"""Stage 3, an option: the distilled student against the frozen document vectors, contrastively
(HARNESS-LM's third phase, arXiv 2605.23572). The step first, then what it needs.

The documents of a batch are everybody's negatives, as in stage 1, and each query has hard ones
beside its own: those that the trained teacher ranks highest over all documents, under the rules
that mining has (`data/negatives.py`). A term holds the student to the teacher's vectors, so that it
does not forget what stage 2 taught it about other queries. Ours: the weights, and all numbers.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Sharding

from scalingnote_jax.config import RefineConfig
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.data.members import Members
from scalingnote_jax.data.order import EpochPlans, check_sizes, epoch_order
from scalingnote_jax.data.relevance import Relevance, check_epoch
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.losses.contrastive_form import OneWay
from scalingnote_jax.losses.matryoshka import matryoshka
from scalingnote_jax.models.layers.params import Flat, flatten
from scalingnote_jax.models.tower import TowerDef, normalise, tower_def
from scalingnote_jax.text.contract import contract, tower_tokenizer
from scalingnote_jax.text.tokens import TokenTable, bucket_of
from scalingnote_jax.train.candidates import Rules, hard_negatives, open_share
from scalingnote_jax.train.log.collapse import spread_figures
from scalingnote_jax.train.loop import Stage, fit
from scalingnote_jax.train.prepare import check_batch, make_schedule
from scalingnote_jax.train.stage2 import Lesson, prepare_student, student_tokens
from scalingnote_jax.train.state import TrainState
from scalingnote_jax.train.step import (
    Batch,
    Metrics,
    dropout_keys,
    student_vectors,
    unit_loss,
    update,
)
from scalingnote_jax.vectors.encode import text_vectors
from scalingnote_jax.vectors.encoder import load_encoder
from scalingnote_jax.vectors.pairing import pairing_meta
from scalingnote_jax.vectors.store import VectorStore
from scalingnote_jax.workflow.engine import Place


def refine_step(
    state: TrainState,
    batch: Batch,
    *,
    tower: TowerDef,
    cfg: RefineConfig,
    matryoshka_sizes: tuple[int, ...],
    tx: optax.GradientTransformation,
    seed: int = 0,
    rows: Sharding | None = None,
) -> tuple[TrainState, Metrics]:
    """One step of stage 3.

    Args:
        state: parameters "student/…".
        batch: tokens, mask [B, L] in the student's own tokens; teacher_raw [B, D]; doc_emb
            [B, G, D], frozen unit vectors (of `encode.dim` components), the first of each group
            relevant; query_ids [B], doc_ids [B, G] and positive_ids [B, P], as for
            `contrastive_loss`.
        tower, cfg, matryoshka_sizes, tx: static; the sizes are stage 2's.
        seed: of dropout.
        rows: on a mesh, where the rows of a batch lie.
    """

    def loss_fn(trained: Flat, batch: Batch) -> tuple[jax.Array, Metrics]:
        student_raw = student_vectors(tower, state, trained, batch, rows)
        loss = matryoshka(partial(refine_loss, cfg=cfg, batch=batch, rows=rows), matryoshka_sizes)
        total, sums = loss(student_raw, batch["teacher_raw"], batch["doc_emb"])
        count = jnp.float32(student_raw.shape[0])
        metrics = {"loss": (total, count)} | {k: (v, count) for k, v in sums.items()}
        return total / count, metrics | spread_figures("student", student_raw)

    batch = batch | dropout_keys("keys", tower, (seed,), state.step, batch["tokens"].shape[:1])
    return update(state, loss_fn, batch, tx, rows, cfg.accumulate)


def refine_loss(
    student_raw: jax.Array,
    teacher_raw: jax.Array,
    doc_emb: jax.Array,
    *,
    cfg: RefineConfig,
    batch: Batch,
    rows: Sharding | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Stage 1's loss of queries against frozen documents, in that direction alone, plus `w_align`
    times 1 - cosine with the teacher; both summed over the B queries.
    """
    width = min(student_raw.shape[-1], doc_emb.shape[-1])
    contrastive = OneWay(cfg.false_negative_margin)
    loss = unit_loss(contrastive, batch, jnp.float32(1 / cfg.temperature), rows)
    total, counts = loss(student_raw[..., :width], doc_emb[..., :width])
    cosine = jnp.einsum("bd,bd->b", normalise(student_raw), normalise(teacher_raw)).sum()
    sums = {
        "contrastive": total,
        "accuracy": counts["correct"],
        "negatives_per_query": counts["negatives"],
        "cosine": cosine,
    }
    return total + cfg.w_align * (len(student_raw) - cosine), sums


class RefineSampler:
    """Batches of stage 3: training queries, each with the vectors of a relevant document and of
    G - 1 others. The same for every number of processes, a function of (seed, step).

    Attributes:
        steps_per_epoch: full batches; what is left over is dropped, another part each epoch.
    """

    def __init__(
        self,
        collection: Collection,
        relevance: Relevance,
        tokens: TokenTable,
        buckets: tuple[int, ...],
        teacher: np.ndarray,
        documents: VectorStore,
        negatives: np.ndarray,
        cfg: RefineConfig,
        seed: int,
        part: int = 0,
        parts: int = 1,
    ):
        """
        Args:
            tokens, teacher: of the query of each example: in the student's tokens, and [examples,
                D] raw.
            negatives: as `hard_negatives` gives them; where they are too few, others are drawn.
            part, parts: of a batch, this process's.
        """
        assert len(documents) == len(collection.doc_ids), "vectors of other documents"
        examples = len(relevance)
        check_sizes("refine", examples, cfg.batch_size, cfg.bucket_window, parts)
        relevance.check_negatives(cfg.negatives_per_query, "refine")
        self.steps_per_epoch = examples // cfg.batch_size
        self._collection, self._relevance, self._tokens = collection, relevance, tokens
        self._buckets, self._teacher, self._rows = buckets, teacher, documents.on_disk()
        size = cfg.batch_size // parts
        self._own = slice(part * size, (part + 1) * size)
        sizes = np.searchsorted(buckets, tokens.lengths)

        def plan(epoch: int) -> tuple[np.ndarray, np.ndarray]:
            docs = relevance.draw(seed, epoch, cfg.negatives_per_query, negatives)
            return epoch_order(sizes, cfg.batch_size, cfg.bucket_window, seed, epoch), docs

        self._plans = EpochPlans(plan)
        check_epoch("refine", relevance, *self._plans[0])

    def ids(self, step: int) -> list[str]:
        """The ids of the queries of the whole batch."""
        epoch, number = divmod(step, self.steps_per_epoch)
        queries = self._relevance.query_rows[self._plans[epoch][0][number]]
        return [self._collection.query_ids[row] for row in queries]

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's rows of step `step`, as `refine_step` wants them."""
        epoch, number = divmod(step, self.steps_per_epoch)
        order, docs = self._plans[epoch]
        length = bucket_of(int(self._tokens.lengths[order[number]].max()), self._buckets)
        examples = order[number][self._own]
        tokens, mask = self._tokens.take(examples, length)
        queries = self._relevance.query_rows[examples]
        return {
            "tokens": tokens,
            "mask": mask,
            "teacher_raw": np.asarray(self._teacher[examples]),
            "doc_emb": self._rows.take(docs[examples]),
            "query_ids": self._collection.query_groups[queries],
            "doc_ids": self._collection.doc_groups[docs[examples]],
            "positive_ids": self._relevance.known_groups(examples),
        }


def build(
    cfg: RefineConfig,
    lesson: Lesson,
    sampler: RefineSampler,
    matryoshka_sizes: tuple[int, ...],
    place: Place,
) -> Stage:
    """Everything of stage 3 but the weights; the arguments are those of `refine`."""
    tower = tower_def(lesson.student, "distill.student")
    schedule = make_schedule("refine", cfg, sampler.steps_per_epoch)
    prepared = prepare_student("refine", tower, cfg, schedule, place.mesh)
    terms = {"query": contract(tower, tower_tokenizer(tower.cfg))}
    return Stage(
        name="refine",
        folder=place.folder,
        prepared=prepared,
        step=prepared.jit(
            refine_step,
            tower=tower,
            cfg=cfg,
            matryoshka_sizes=matryoshka_sizes,
            seed=lesson.seed,
        ),
        initial=partial(_distilled, lesson, place),
        sampler=sampler,
        schedule=schedule,
        meta={"inputs": place.inputs, "contracts": terms}
        | pairing_meta(lesson.teacher.identity, lesson.student),
    )


def _distilled(lesson: Lesson, place: Place) -> Flat:
    assert lesson.distilled is not None, "the step reads what stage 2 has made"
    encoder = load_encoder(lesson.distilled, lesson.encode, place.mesh)
    return flatten({"student": encoder.params})


def refine_sampler(
    cfg: RefineConfig,
    lesson: Lesson,
    rules: Rules,
    collection: Collection,
    members: Members | None,
    documents: Path,
    place: Place,
) -> RefineSampler:
    """Batches of stage 3; the arguments are those of `refine`. The teacher's vectors of the queries
    and the hard negatives are made where they are not there yet.
    """
    store, student = open_share(documents), lesson.student
    relevance = Relevance(collection, "train", members)
    every = [q.text for q in collection.queries]
    texts = [every[row] for row in relevance.query_rows]
    cached = "refine", "float32", lesson.encode, place
    queries = text_vectors(lesson.teacher, texts, *cached)
    given = collection, relevance, queries, store, place
    return RefineSampler(
        collection,
        relevance,
        student_tokens(texts, student, place.workdir.tokens),
        student.text.buckets,
        queries.vectors(),
        store,
        hard_negatives(rules, lesson.seed, *given),
        cfg,
        lesson.seed,
        *mesh_lib.batch_part(place.mesh),
    )


def refine(
    cfg: RefineConfig,
    lesson: Lesson,
    matryoshka_sizes: tuple[int, ...],
    rules: Rules,
    collection: Collection,
    members: Members | None,
    documents: Path,
    place: Place,
) -> TrainState:
    """Runs stage 3 to its end, from the newest checkpoint if there is one.

    Args:
        lesson: as of stage 2.
        matryoshka_sizes: stage 2's.
        rules: how hard negatives are found.
        members: of a mixture, so that negatives are of the query's own collection.
        documents: the folder of the teacher's document vectors.
    """
    check_batch("refine", cfg, place.mesh)
    sampler = refine_sampler(cfg, lesson, rules, collection, members, documents, place)
    return fit(build(cfg, lesson, sampler, matryoshka_sizes, place))
