"""The run that is evaluated: its parts, each by name, so that no function here needs more than the
few that it takes. Not for what is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from scalingnote_jax.config import (
    Config,
    DataConfig,
    DistillConfig,
    EncodeConfig,
    EvalConfig,
    NegativeSource,
    RefineConfig,
    Stages,
    TrainConfig,
)
from scalingnote_jax.config.values import to_json
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.data.sources.mixture import members
from scalingnote_jax.systems import System, systems_of
from scalingnote_jax.vectors.trained import RunTowers
from scalingnote_jax.workflow.workdir import Workdir


@dataclass(frozen=True)
class Trainings:
    """How the towers were trained, for what that cost.

    Attributes:
        rounds: of stage 1, as in `MineConfig`.
    """

    train: TrainConfig
    rounds: Sequence[NegativeSource]
    distill: DistillConfig
    refine: RefineConfig


@dataclass(frozen=True)
class Subject:
    """One finished run.

    Attributes:
        stages: which of the method's stages it has.
        systems: what is evaluated of it.
        towers: its towers.
        collection: what it was trained on, as built.
        data: what that was built from.
        workdir: where everything is.
        trainings: how the towers were trained.
        shown: the whole config as plain values, for the report.
    """

    stages: Stages
    systems: list[System]
    towers: RunTowers
    collection: Collection
    data: DataConfig
    workdir: Workdir
    seed: int
    encode: EncodeConfig
    eval: EvalConfig
    trainings: Trainings
    shown: dict[str, Any]

    @classmethod
    def of(
        cls, settings: Any, towers: RunTowers, collection: Collection, workdir: Workdir
    ) -> Subject:
        """From the sections of a config."""
        train, distill, refine = settings.train, settings.distill, settings.refine
        durations = train.duration, distill.duration, refine.duration
        stages = Stages.of(settings.name, *durations, settings.teacher.query.weights)
        rounds = settings.mine.rounds
        trainings = Trainings(train, rounds, distill, refine)
        names = [f.name for f in fields(Config) if f.name != "mesh"]
        return cls(
            stages,
            systems_of(stages, settings.eval.systems),
            towers,
            collection,
            settings.data,
            workdir,
            settings.seed,
            settings.encode,
            settings.eval,
            trainings,
            {name: plain_value(getattr(settings, name)) for name in names},
        )

    @property
    def name(self) -> str:
        """What the run's own data are called."""
        return dataset_name(self.data)

    def row_name(self, system: System) -> str:
        """What the rows of a system are called."""
        return self.stages.row_name(system.name)


def plain_value(section: Any) -> Any:
    return section if isinstance(section, str | int) else to_json(section)


def dataset_name(data: DataConfig) -> str:
    """What data are called: the last part of their path, or the collections of a mixture."""
    if data.mixture:
        return "+".join(members(data))
    return data.path.rstrip("/").rsplit("/", 1)[-1] if data.path else data.source
