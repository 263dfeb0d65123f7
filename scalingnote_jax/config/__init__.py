"""Every option of the project, as frozen dataclasses: towers.py, training.py, serving.py, and here
the whole. What a field may hold stands in its type (limits.py); `validate.py` checks it, `load.py`
reads config files and overrides.

Dimension letters, used in all shape comments of the project:
B global queries, G documents per query, N = B·G documents, D embedding, L tokens, E hidden size, H
heads, K head size, F feed-forward size, V vocabulary.

Durations are text: "200 steps", "3 epochs", "10000 examples" or "10%" (of the run).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from scalingnote_jax.config.limits import Name, Seed
from scalingnote_jax.config.serving import (
    EncodeConfig,
    EvalConfig,
    ExactConfig,
    IndexConfig,
    SystemName,
)
from scalingnote_jax.config.stages import Stages
from scalingnote_jax.config.towers import (
    BertShape,
    DecoderShape,
    LoraConfig,
    ModernBertShape,
    RopeScaling,
    TextConfig,
    TowerConfig,
    TowersConfig,
)
from scalingnote_jax.config.training import (
    DataConfig,
    DistillConfig,
    MeshConfig,
    MineConfig,
    NegativeSource,
    OptimConfig,
    QuerySource,
    RefineConfig,
    TrainConfig,
)

__all__ = [
    "BertShape",
    "Config",
    "DataConfig",
    "DecoderShape",
    "DistillConfig",
    "EncodeConfig",
    "EvalConfig",
    "ExactConfig",
    "IndexConfig",
    "LoraConfig",
    "MeshConfig",
    "MineConfig",
    "ModernBertShape",
    "NegativeSource",
    "OptimConfig",
    "QuerySource",
    "RefineConfig",
    "RopeScaling",
    "Stages",
    "SystemName",
    "TextConfig",
    "TowerConfig",
    "TowersConfig",
    "TrainConfig",
    "replace",
]


@dataclass(frozen=True)
class Config:
    """One experiment, from raw texts to the report."""

    name: Name  # of the workdir, and of the rows of its own system in the results
    seed: Seed = 0  # of all that training and evaluation draw
    data: DataConfig = field(default_factory=DataConfig)  # corpus, queries, judgements
    teacher: TowersConfig = field(default_factory=TowersConfig)  # the towers of stage 1
    train: TrainConfig = field(default_factory=TrainConfig)  # stage 1
    mine: MineConfig = field(default_factory=MineConfig)  # hard negatives
    distill: DistillConfig = field(default_factory=DistillConfig)  # stage 2
    refine: RefineConfig = field(default_factory=RefineConfig)  # stage 3
    encode: EncodeConfig = field(default_factory=EncodeConfig)  # texts to vectors
    index: IndexConfig = field(default_factory=IndexConfig)  # approximate search
    eval: EvalConfig = field(default_factory=EvalConfig)  # the evaluation
    mesh: MeshConfig = field(default_factory=MeshConfig)  # devices

    @property
    def stages(self) -> Stages:
        """Which of the optional stages there are."""
        return Stages.of(
            self.name,
            self.train.duration,
            self.distill.duration,
            self.refine.duration,
            self.teacher.query.weights,
        )


replace = dataclasses.replace
