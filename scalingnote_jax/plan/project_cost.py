"""What a whole project costs on a slice: every step that runs on it, for so many pairs, queries and
documents, in hours, chip-hours and money, and the bytes that it leaves on disk.

Stage 1's step and `encode` were compiled. The others are on paper: their FLOPs, at the share of the
peak that the compiled program of the same kind reaches (a training at that of `train`, a forward
pass at that of `encode`), and exact search by its products and what it reads. Not for what runs on
hosts: `data`, BM25, the index, and reading texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from scalingnote_jax.config import (
    DistillConfig,
    EncodeConfig,
    ExactConfig,
    MineConfig,
    RefineConfig,
    Stages,
    TowersConfig,
    TrainConfig,
)
from scalingnote_jax.models.flops import tower_flops
from scalingnote_jax.models.from_teacher import student_config
from scalingnote_jax.models.layers.params import flatten
from scalingnote_jax.models.pair import Towers
from scalingnote_jax.models.tower import TowerDef, tower_def
from scalingnote_jax.plan.topology import Topology
from scalingnote_jax.train.durations import steps_of
from scalingnote_jax.train.prepare import StageConfig
from scalingnote_jax.train.state import split_frozen

Costs = dict[str, Any]
# Passes of bfloat16 products that one of float32 at full precision takes
_PASSES = {"float32": 6, "bfloat16": 1, "int8": 1}
_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}


@dataclass(frozen=True)
class Amounts:
    """How much there is of what; 0 where it is not known.

    Attributes:
        pairs: training pairs in an epoch.
        queries: texts that stage 2 learns from, and for which negatives are mined.
        docs: documents of the corpus.
        price: of a chip-hour, in any currency.
    """

    pairs: int = 0
    queries: int = 0
    docs: int = 0
    price: float = 0.0

    @property
    def any(self) -> bool:
        """Whether something is known."""
        return bool(self.pairs or self.queries or self.docs)


@dataclass(frozen=True)
class Project:
    """The parts of a config that say how often each step runs, and on what."""

    teacher: TowersConfig
    train: TrainConfig
    mine: MineConfig
    distill: DistillConfig
    refine: RefineConfig
    encode: EncodeConfig
    exact: ExactConfig
    stages: Stages


def project_cost(
    project: Project, amounts: Amounts, plan: Costs, encode: Costs, topology: Topology
) -> Costs:
    """Rows of steps with their totals, and bytes on disk.

    Args:
        plan: of the training step, which fits.
        encode: of `encode`, which fits.
    """
    steps = [
        _priced(name, amount, unit, secs, amounts.price, topology.num_chips)
        for name, amount, unit, secs in _Steps(project, amounts, plan, encode, topology).all()
    ]
    known = [row for row in steps if row["hours"]]
    totals = {
        key: [sum(row[key][i] for row in known) for i in (0, 1)]
        for key in ("hours", "chip_hours", "price")
        if key != "price" or amounts.price
    }
    return {"steps": steps, "total": totals, "disk": _disk(project, amounts, plan, encode)}


def _priced(
    name: str, amount: float, unit: str, secs: list[float], price: float, chips: int
) -> Costs:
    hours = [s / 3600 for s in secs] if amount else None
    chip_hours = [h * chips for h in hours] if hours else None
    return {
        "step": name,
        "amount": amount or None,
        "unit": unit,
        "hours": hours,
        "chip_hours": chip_hours,
        "price": [h * price for h in chip_hours] if chip_hours and price else None,
    }


@dataclass(frozen=True)
class _Steps:
    """Seconds of each step, as [least, by the compiler's schedule]."""

    project: Project
    amounts: Amounts
    plan: Costs
    encode: Costs
    topology: Topology

    def all(self) -> Iterator[tuple[str, float, str, list[float]]]:
        """Name, amount, its unit, seconds; in the order of the method."""
        cfg, amounts = self.project, self.amounts
        query = Towers(cfg.teacher).query
        docs = self._documents()
        trainings = len(cfg.mine.rounds)
        pairs = trainings * self._examples("train", cfg.train, amounts.pairs)
        secs = [pairs / cfg.train.batch_size * s for s in self.plan["step_secs_range"]]
        yield "train", pairs, "pairs", secs
        by_teacher = sum(source == "teacher" for source in cfg.mine.rounds)
        if by_teacher:
            search = self._search(amounts.queries)
            forward = self._forward(query, amounts.queries)
            each = [sum(x) * by_teacher for x in zip(docs, forward, search, strict=True)]
            both = by_teacher * amounts.queries * bool(amounts.docs)
            yield "mine", both, "queries", each
        yield "encode", amounts.docs, "documents", docs
        yield from self._student(query)
        found = amounts.queries * bool(amounts.docs)
        yield "exact search", found, "queries", self._search(amounts.queries)

    def _student(self, query: TowerDef) -> Iterator[tuple[str, float, str, list[float]]]:
        cfg, queries = self.project, self.amounts.queries
        queries = min(queries, cfg.distill.max_queries or queries)
        if not cfg.stages.distills or not queries:
            return
        student = tower_def(student_config(cfg.distill.student, cfg.teacher.query), "student")
        texts = self._examples("distill", cfg.distill, queries)
        learnt, taught = self._backward(student, texts), self._forward(query, queries)
        yield "distill", texts, "texts", [a + b for a, b in zip(learnt, taught, strict=True)]
        if cfg.stages.refines:
            texts = self._examples("refine", cfg.refine, self.amounts.queries)
            yield "refine", texts, "queries", self._backward(student, texts)

    def _examples(self, stage: str, cfg: StageConfig, examples: int) -> int:
        """That a training sees in all."""
        if not examples:
            return 0
        steps_per_epoch = math.ceil(examples / cfg.batch_size)
        sizes = {"batch_size": cfg.batch_size, "steps_per_epoch": steps_per_epoch}
        return steps_of(f"{stage}.duration", cfg.duration, **sizes) * cfg.batch_size

    def _documents(self) -> list[float]:
        batches = self.amounts.docs / self.encode["batch"]
        return [batches * s for s in self.encode["step_secs_range"]]

    def _forward(self, tower: TowerDef, texts: float) -> list[float]:
        return self._at(tower_flops(tower, 1).model * texts, self.encode["mfu_range"])

    def _backward(self, tower: TowerDef, texts: float) -> list[float]:
        shapes, _ = tower.abstract()
        trained, _ = split_frozen("distill.student", flatten(shapes), tower.freeze)
        return self._at(tower_flops(tower, 1, trained).model * texts, self.plan["mfu_range"])

    def _at(self, flops: float, mfu: list[float]) -> list[float]:
        peak = self.topology.chip.flops * self.topology.num_chips
        return [flops / (share * peak) for share in reversed(mfu)]

    def _search(self, queries: int) -> list[float]:
        """Every document is scored for every query: products, and for each block of queries the
        vectors once and their scores twice.
        """
        cfg, chip, chips = self.project.exact, self.topology.chip, self.topology.num_chips
        dim, scored = _dim(self.project), queries * self.amounts.docs
        compute = 2 * scored * dim * _PASSES[cfg.storage] / chip.flops
        read = scored / cfg.query_block * dim * _BYTES[cfg.storage] + 2 * 4 * scored
        secs = [compute, read / chip.hbm_bytes_per_sec]
        return [max(secs) / chips, sum(secs) / chips]


def _dim(project: Project) -> int:
    return project.encode.dim or Towers(project.teacher).doc.dim


def _disk(project: Project, amounts: Amounts, plan: Costs, encode: Costs) -> Costs:
    """Bytes, and how fast all hosts together write vectors while they encode at their best."""
    width = _dim(project) * _BYTES[project.encode.store_dtype]
    if project.encode.store_dtype == "int8":
        width += 4  # a scale for each vector
    taught = jnp.dtype(project.distill.cache_dtype).itemsize * Towers(project.teacher).query.dim
    return {
        "vector_bytes": amounts.docs * width or None,
        "vector_bytes_per_sec": encode["docs_per_sec"] * width,
        "teacher_query_bytes": amounts.queries * taught * project.stages.distills or None,
        "checkpoint_bytes": plan["checkpoint_bytes"],
    }
