"""Stage 2: the small query tower learns the teacher's query vectors (paper, section 3.2:
query-based knowledge distillation). The step first, then what it needs.

The teacher encodes each query text once; its vectors are cached with a manifest of what made them.
The student has its own tokenizer. No document tower and no label is loaded here, so the index
cannot change; document vectors are read, where a term of the loss compares scores, from the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, Sharding

from scalingnote_jax.config import DistillConfig, EncodeConfig, RefineConfig, TowerConfig, replace
from scalingnote_jax.data.augment import query_log
from scalingnote_jax.data.augment.query_texts import QueryTexts, epoch_rows
from scalingnote_jax.data.batches import TextSampler
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import bad_input
from scalingnote_jax.hashing import content_hash
from scalingnote_jax.losses.distill import needs_documents, stage2_loss
from scalingnote_jax.losses.matryoshka import check_sizes, matryoshka
from scalingnote_jax.models.layers.params import Flat, flatten
from scalingnote_jax.models.tower import TowerDef, tower_def
from scalingnote_jax.progress import say
from scalingnote_jax.text.contract import contract, token_table, tower_tokenizer
from scalingnote_jax.text.tokens import TokenTable
from scalingnote_jax.train.candidates import Candidates, candidates_for, open_share
from scalingnote_jax.train.durations import steps_of
from scalingnote_jax.train.log.collapse import spread_figures
from scalingnote_jax.train.log.metrics_log import read_metrics
from scalingnote_jax.train.loop import Stage, fit
from scalingnote_jax.train.prepare import Prepared, Schedule, check_batch, make_schedule
from scalingnote_jax.train.probe import Probe, alarms, cone, encode_again, mean_unit
from scalingnote_jax.train.start import student_start
from scalingnote_jax.train.state import TrainState
from scalingnote_jax.train.step import Batch, Metrics, dropout_keys, student_vectors, update
from scalingnote_jax.vectors.pairing import pairing_meta
from scalingnote_jax.vectors.store import VectorStore
from scalingnote_jax.vectors.taught import Taught, taught_by_tower
from scalingnote_jax.vectors.trained import RunTowers, TrainedTower, student_files
from scalingnote_jax.workflow.engine import Place


def distill_step(
    state: TrainState,
    batch: Batch,
    *,
    tower: TowerDef,
    cfg: DistillConfig,
    tx: optax.GradientTransformation,
    seed: int = 0,
    rows: Sharding | None = None,
    shared: Batch,
) -> tuple[TrainState, Metrics]:
    """One step of stage 2.

    Args:
        state: parameters "student/…".
        batch: tokens, mask [B, L] in the student's own tokens; teacher_raw [B, D] from the cache.
            Where a term compares scores, also top_emb [B, k, D], top_ids [B, k], sample_emb [S, D]
            and sample_ids [S] (see `losses/distill.py`).
        shared: teacher_mean [D], of the teacher's unit vectors, to be looked at.
        tower, cfg, tx: static.
        seed: of dropout.
        rows: on a mesh, where the rows of a batch lie.
    """

    def loss_fn(trained: Flat, batch: Batch) -> tuple[jax.Array, Metrics]:
        student_raw = student_vectors(tower, state, trained, batch, rows)
        documents: tuple[jax.Array, ...] = ()
        ids = None
        if "top_emb" in batch:
            documents = (batch["top_emb"], batch["sample_emb"])
            ids = (batch["top_ids"], batch["sample_ids"])
        loss = partial(stage2_loss, cfg=cfg, ids=ids)
        vectors = (student_raw, batch["teacher_raw"])
        total, sums = matryoshka(loss, cfg.matryoshka)(*vectors, *documents)
        count = jnp.float32(student_raw.shape[0])
        figures = cone(*jax.lax.stop_gradient(vectors), shared["teacher_mean"])
        metrics = {"loss": (total, count)} | {k: (v, count) for k, v in sums.items()}
        metrics |= spread_figures("student", student_raw)
        return total / count, metrics | {k: (v, jnp.float32(1)) for k, v in figures.items()}

    batch = batch | dropout_keys("keys", tower, (seed,), state.step, batch["tokens"].shape[:1])
    sampled = ("sample_emb", "sample_ids")
    return update(state, loss_fn, batch, tx, rows, cfg.accumulate, sampled)


@dataclass(frozen=True)
class Lesson:
    """Who learns from whom.

    Attributes:
        teacher: its query tower.
        student: the student's complete config (`student_config`).
        distilled: the student that stage 2 has made, for stage 3.
        encode: how texts are encoded.
        seed: of the run.
    """

    teacher: TrainedTower
    student: TowerConfig
    distilled: TrainedTower | None
    encode: EncodeConfig
    seed: int

    @classmethod
    def of(cls, towers: RunTowers, encode: EncodeConfig) -> Lesson:
        """The teacher and the student of a run."""
        distilled = towers.get("student", "query") if "distill" in towers.folders else None
        teacher = towers.get("teacher", "query")
        return cls(teacher, towers.student_config, distilled, encode, towers.seed)


class DistillSampler:
    """Batches of stage 2: a text's tokens in the student's tokenizer beside the teacher's vector of
    it and, where a term compares scores, documents.
    """

    def __init__(
        self, texts: TextSampler, vectors: np.ndarray, candidates: Candidates | None = None
    ):
        self.texts, self.vectors, self.candidates = texts, vectors, candidates

    def ids(self, step: int) -> list[str]:
        """The rows of the whole batch in the list of query texts."""
        return self.texts.ids(step)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's rows of step `step`: tokens, mask [b, L], teacher_raw [b, D], and what
        `Candidates.batch` adds.
        """
        batch = self.texts.batch(step)
        rows = batch["rows"]
        documents = self.candidates.batch(step, rows) if self.candidates else {}
        return {
            "tokens": batch["tokens"],
            "mask": batch["mask"],
            "teacher_raw": np.asarray(self.vectors[rows]),
            **documents,
        }


def build(
    cfg: DistillConfig,
    lesson: Lesson,
    table: TokenTable,
    vectors: np.ndarray,
    place: Place,
    *,
    mixed: QueryTexts | None = None,
    candidates: Candidates | None = None,
    probe: Probe | None = None,
) -> Stage:
    """Everything of stage 2 but the weights.

    Args:
        table: the query texts in the student's tokens.
        vectors: [len(table), D] float32, the teacher's raw vectors of the same texts.
        mixed: the texts, where they are mixed by weights or counts.
        candidates: the documents of each step, where a term compares their scores.
        probe: watches the student while it learns.
    """
    mesh, seed = place.mesh, lesson.seed
    check_batch("distill", cfg, mesh)
    tower = tower_def(lesson.student, "distill.student")
    if tower.dim != vectors.shape[1]:
        raise bad_input(
            "--distill.student.projection",
            f"student vectors of {tower.dim} dimensions",
            f"the teacher's {vectors.shape[1]}",
            f"set it to {vectors.shape[1]}",
        )
    check_sizes("--distill.matryoshka", cfg.matryoshka, tower.dim)
    part, parts = mesh_lib.batch_part(mesh)
    texts = TextSampler(
        table,
        tower.cfg.text.buckets,
        cfg.batch_size,
        cfg.bucket_window,
        seed,
        process_index=part,
        process_count=parts,
        epoch_rows=epoch_rows(mixed.owners, cfg, seed, mixed.counts) if mixed else None,
    )
    schedule = make_schedule("distill", cfg, texts.steps_per_epoch)
    prepared = prepare_student("distill", tower, cfg, schedule, mesh)
    shared = {"teacher_mean": mean_unit(vectors)}
    start = (tower, table, vectors, lesson.teacher, prepared, cfg, seed, lesson.encode)
    terms = contract(tower, tower_tokenizer(tower.cfg))
    return Stage(
        name="distill",
        folder=place.folder,
        prepared=prepared,
        step=prepared.jit(distill_step, shared, tower=tower, cfg=cfg, seed=seed),
        initial=partial(student_start, *start),
        sampler=DistillSampler(texts, vectors, candidates),
        schedule=schedule,
        meta={"inputs": place.inputs, "contracts": {"query": terms}},
        probe=probe,
    )


def prepare_student(
    stage: str, tower: TowerDef, cfg: DistillConfig | RefineConfig, schedule: Schedule, mesh: Mesh
) -> Prepared:
    """The student's parameters "student/…" in stage 2 or 3."""
    shapes, axes = (flatten({"student": tree}) for tree in tower.abstract())
    return Prepared("distill.student", shapes, axes, tower.freeze, cfg, schedule, mesh)


def outside(settings: Any) -> list[Any]:
    """What a student is made from beside the run: the content of its weights' files and of the
    query logs.
    """
    return [student_files(settings), query_log.content(settings)]


def distill(
    cfg: DistillConfig,
    lesson: Lesson,
    collection: Collection,
    documents: Path | None,
    place: Place,
    taught: Taught | None = None,
) -> TrainState:
    """Runs stage 2 to its end, from the newest checkpoint if there is one.

    Args:
        documents: the folder of the teacher's document vectors; None where there are none yet,
            which only terms that compare scores need.
        taught: None: the config's query texts, with vectors by the teacher's query tower.
    """
    by_tower = lesson.teacher, lesson.encode, lesson.seed
    taught = taught or taught_by_tower(cfg, collection, *by_tower, place)
    texts, watched, queries = taught.texts, taught.watched, taught.vectors
    say(f"distill: {texts.said(cfg.queries)}; watched on {len(watched)} others")
    vectors, split = queries.vectors(), len(texts.learned)
    store = open_share(documents) if documents else None
    candidates = None
    if needs_documents(cfg):
        assert store is not None, "the step reads the document vectors"
        folder = place.workdir.embeddings("teacher", "distill-best")
        given = (collection, store, queries, split, folder, place.mesh, lesson.seed)
        candidates = candidates_for(cfg, *given)
    table = student_tokens(texts.learned, lesson.student, place.workdir.tokens)
    stage = build(cfg, lesson, table, vectors[:split], place, mixed=texts, candidates=candidates)
    if watched:
        table = student_tokens(watched, lesson.student, place.workdir.tokens)
        stage = replace(stage, probe=_probe(cfg, lesson.student, stage, table, vectors, store))
    pairing = pairing_meta(queries.manifest["checkpoint"], lesson.student)
    state = fit(replace(stage, meta=stage.meta | pairing))
    for alarm in alarms(read_metrics(stage.folder / "metrics.jsonl")):
        say(f"distill: this student may not keep its recall: {alarm}")
    return state


def student_tokens(texts: list[str], student: TowerConfig, tokens: Path) -> TokenTable:
    """Query texts in the student's tokens; `tokens` is the folder of token tables."""
    pairs, tokenizer = [("", t) for t in texts], tower_tokenizer(student)
    return token_table(pairs, student, tokenizer, tokens, content_hash(texts))


def _probe(
    cfg: DistillConfig,
    student: TowerConfig,
    stage: Stage,
    table: TokenTable,
    vectors: np.ndarray,
    store: VectorStore | None,
) -> Probe:
    """
    Args:
        table: the watched texts in the student's tokens.
        vectors: the teacher's, of the texts that are learned and behind them of those.
    """
    schedule, split = stage.schedule, len(vectors) - len(table)
    sizes = {"batch_size": cfg.batch_size, "steps_per_epoch": schedule.total_steps}
    every = steps_of(
        "distill.probe_every", cfg.probe_every, **sizes, total_steps=schedule.total_steps
    )
    return Probe(
        encode_again(tower_def(student), table, stage.prepared.mesh),
        np.asarray(vectors[split:]),
        mean_unit(vectors[:split]),
        store,
        max(1, every),
        schedule.log_every,
        schedule.total_steps,
    )
