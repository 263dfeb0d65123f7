"""Stage 2: the small query tower learns the teacher's query vectors (paper, section 3.2:
query-based knowledge distillation).

The teacher encodes each query text once; its vectors are cached with a manifest of what made them.
The student has its own tokenizer. No document tower and no label is loaded here, so the index
cannot change; document vectors are read, where a term of the loss looks at them, from the store.
"""

from __future__ import annotations

import numpy as np
from jax.sharding import Mesh

from scalingnote_jax.config import Config, TowerConfig, replace
from scalingnote_jax.data.batches import TextSampler
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.data.query_texts import epoch_rows, query_texts
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import bad_input
from scalingnote_jax.hashing import content_hash
from scalingnote_jax.losses.distill import needs_documents
from scalingnote_jax.losses.matryoshka import check_sizes
from scalingnote_jax.models.from_teacher import student_config
from scalingnote_jax.models.layers.params import flatten
from scalingnote_jax.models.tower import tower_def
from scalingnote_jax.progress import say
from scalingnote_jax.text.contract import contract, token_table, tower_tokenizer
from scalingnote_jax.text.tokens import TokenTable
from scalingnote_jax.train.candidates import (
    NO_DOCUMENTS,
    Candidates,
    Documents,
    documents_for_loss,
    frozen_store,
)
from scalingnote_jax.train.durations import steps_of
from scalingnote_jax.train.loop import Stage, fit
from scalingnote_jax.train.prepare import Prepared, check_batch, make_schedule
from scalingnote_jax.train.probe import Probe, encode_again, mean_unit
from scalingnote_jax.train.state import TrainState
from scalingnote_jax.train.step import distill_step
from scalingnote_jax.train.student_start import student_start
from scalingnote_jax.vectors.encode import stored_vectors, weights_hash
from scalingnote_jax.vectors.encoder import load_encoder
from scalingnote_jax.vectors.pairing import pairing_meta
from scalingnote_jax.vectors.store import VectorStore
from scalingnote_jax.workflow.workdir import Workdir


def teacher_vectors(
    config: Config, texts: list[str], workdir: Workdir, mesh: Mesh, stage: str = "distill"
) -> VectorStore:
    """The teacher's raw query vectors of `texts`, from the stage's cache if it was made by this
    teacher from these texts.
    """
    encoder = load_encoder(config, workdir, "teacher", "query", mesh)
    pairs, key = [("", t) for t in texts], content_hash(texts)
    return stored_vectors(
        encoder,
        workdir.embeddings("teacher", stage),
        "queries (teacher)",
        [str(i) for i in range(len(texts))],
        lambda: token_table(pairs, config.teacher.query, encoder.tokenizer, workdir.tokens, key),
        {"checkpoint": weights_hash(config, workdir, "teacher"), "texts": key},
        unit=False,
        shard_rows=config.encode.shard_rows,
        dtype=config.distill.cache_dtype,
    )


class DistillSampler:
    """Batches of stage 2: a text's tokens in the student's tokenizer beside the teacher's vector of
    it and, where a term compares scores, documents.
    """

    def __init__(
        self, texts: TextSampler, vectors: np.ndarray, candidates: Candidates | None = None
    ):
        self.texts, self.vectors, self.candidates = texts, vectors, candidates

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
    config: Config,
    table: TokenTable,
    vectors: np.ndarray,
    workdir: Workdir,
    mesh: Mesh,
    inputs: str,
    *,
    owners: np.ndarray | None = None,
    documents: Documents = NO_DOCUMENTS,
    probe: Probe | None = None,
) -> Stage:
    """Everything of stage 2 but the weights: what `--dry-run` shows and `distill` runs.

    Args:
        table: the query texts in the student's tokens.
        vectors: [len(table), D] float32, the teacher's raw vectors of the same texts.
        owners: the sources of the texts, as in `QueryTexts`, where they are mixed by weights.
        documents: where a term looks at them.
        probe: watches the student while it learns.
    """
    cfg = config.distill
    check_batch("distill", cfg, mesh)
    tower = tower_def(student_config(config), "distill.student")
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
        config.seed,
        process_index=part,
        process_count=parts,
        epoch_rows=None if owners is None else epoch_rows(owners, cfg, config.seed),
    )
    schedule = make_schedule("distill", cfg, texts.steps_per_epoch)
    shapes, axes = (flatten({"student": tree}) for tree in tower.abstract())
    prepared = Prepared("distill.student", shapes, axes, tower.freeze, cfg, schedule, mesh)
    shared = {"teacher_mean": mean_unit(vectors)}
    if documents.covariance is not None:
        shared["covariance"] = documents.covariance
    terms = contract(tower, tower_tokenizer(tower.cfg))
    return Stage(
        name="distill",
        folder=workdir.student,
        prepared=prepared,
        step=prepared.jit(distill_step, shared, tower=tower, cfg=cfg, seed=config.seed),
        initial=lambda: student_start(config, tower, table, vectors, workdir, prepared),
        sampler=DistillSampler(texts, vectors, documents.candidates),
        schedule=schedule,
        meta={"inputs": inputs, "contracts": {"query": terms}},
        probe=probe,
    )


def distill(
    config: Config, collection: Collection, workdir: Workdir, mesh: Mesh, inputs: str
) -> TrainState:
    """Runs stage 2 to its end, from the newest checkpoint if there is one."""
    cfg, student = config.distill, student_config(config)
    texts = query_texts(cfg, collection, config.seed)
    learned, watched = texts.learned, texts.probe(cfg.probe_queries, config.seed)
    say(f"distill: {len(learned)} query texts; watched on {len(watched)} others")
    queries = teacher_vectors(config, [*learned, *watched], workdir, mesh)
    vectors, split = queries.vectors(), len(learned)
    store = frozen_store(config, workdir, needs_documents(cfg))
    stage = build(
        config,
        student_tokens(learned, student, workdir),
        vectors[:split],
        workdir,
        mesh,
        inputs,
        owners=texts.owners,
        documents=documents_for_loss(config, collection, workdir, mesh, queries, split, store),
    )
    if watched:
        stage = replace(stage, probe=_probe(config, stage, watched, vectors, store, workdir))
    pairing = pairing_meta(queries.manifest["checkpoint"], student)
    return fit(replace(stage, meta=stage.meta | pairing))


def student_tokens(texts: list[str], student: TowerConfig, workdir: Workdir) -> TokenTable:
    """Query texts in the student's tokens."""
    pairs, tokenizer = [("", t) for t in texts], tower_tokenizer(student)
    return token_table(pairs, student, tokenizer, workdir.tokens, content_hash(texts))


def _probe(
    config: Config,
    stage: Stage,
    texts: list[str],
    vectors: np.ndarray,
    store: VectorStore | None,
    workdir: Workdir,
) -> Probe:
    """`vectors`: the teacher's, of the texts that are learned and behind them of `texts`."""
    cfg, schedule, mesh = config.distill, stage.schedule, stage.prepared.mesh
    student, split = student_config(config), len(vectors) - len(texts)
    table = student_tokens(texts, student, workdir)
    sizes = {"batch_size": cfg.batch_size, "steps_per_epoch": schedule.total_steps}
    every = steps_of(
        "distill.probe_every", cfg.probe_every, **sizes, total_steps=schedule.total_steps
    )
    return Probe(
        encode_again(tower_def(student), table, mesh),
        np.asarray(vectors[split:]),
        mean_unit(vectors[:split]),
        store,
        max(1, every),
        schedule.log_every,
        schedule.total_steps,
    )
