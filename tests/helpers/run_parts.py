"""Parts of a run, made of a whole config as the pipeline makes them: for tests that look at one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from scalingnote_jax.config import Config, TowerConfig
from scalingnote_jax.data.batches import PairSampler
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.data.members import Members
from scalingnote_jax.data.negatives import Negatives
from scalingnote_jax.models.from_teacher import student_config
from scalingnote_jax.text.tokens import TokenTable
from scalingnote_jax.train import stage1, stage2
from scalingnote_jax.train.loop import Stage
from scalingnote_jax.vectors.encode import text_vectors
from scalingnote_jax.vectors.encoder import Encoder, load_encoder
from scalingnote_jax.vectors.pairing import run_towers
from scalingnote_jax.vectors.store import VectorStore
from scalingnote_jax.vectors.trained import RunTowers
from scalingnote_jax.workflow.engine import Place
from scalingnote_jax.workflow.workdir import Workdir


def towers(config: Config, workdir: Workdir) -> RunTowers:
    return run_towers(config.teacher, config.distill.student, config.seed, config.stages, workdir)


def encoder(config: Config, workdir: Workdir, role: str, side: str, mesh: Mesh) -> Encoder:
    return load_encoder(towers(config, workdir).get(role, side), config.encode, mesh)


def student_of(config: Config) -> TowerConfig:
    """The student's complete config."""
    return student_config(config.distill.student, config.teacher.query)


def _pairs(config: Config, collection: Collection, mined: Negatives | None) -> stage1.Pairs:
    return stage1.Pairs(collection, Members.of(config.data, collection), mined)


def pair_sampler(
    config: Config, collection: Collection, workdir: Workdir, mesh: Mesh
) -> PairSampler:
    given = config.train, config.teacher, config.seed, _pairs(config, collection, None)
    return stage1.pair_sampler(*given, workdir.tokens, mesh)


def first_stage(
    config: Config,
    collection: Collection,
    workdir: Workdir,
    mesh: Mesh,
    mined: Negatives | None = None,
    before: Path | None = None,
) -> Stage:
    """Stage 1 of a config."""
    pairs, place = _pairs(config, collection, mined), Place(workdir.teacher, workdir, mesh, "x")
    start = stage1.Start(config.encode.batch_size, before)
    return stage1.build(config.train, config.teacher, config.seed, pairs, start, place)


def lesson(config: Config, workdir: Workdir) -> stage2.Lesson:
    return stage2.Lesson.of(towers(config, workdir), config.encode)


def second_stage(
    config: Config, table: TokenTable, vectors: np.ndarray, workdir: Workdir, mesh: Mesh
) -> Stage:
    """Stage 2 of a config."""
    place = Place(workdir.student, workdir, mesh, "x")
    return stage2.build(config.distill, lesson(config, workdir), table, vectors, place)


def teacher_vectors(
    config: Config, texts: list[str], workdir: Workdir, mesh: Mesh, name: str = "distill"
) -> VectorStore:
    """The teacher's raw vectors of query texts."""
    place, tower = Place(workdir.student, workdir, mesh, "x"), towers(config, workdir)
    cached = config.distill.cache_dtype, config.encode, place
    return text_vectors(tower.get("teacher", "query"), texts, name, *cached)
