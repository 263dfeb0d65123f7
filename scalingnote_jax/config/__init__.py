"""Every option of the project, as frozen dataclasses: towers.py, training.py, serving.py, and here
the whole. Nothing else lives in this folder: loading and overriding is in `configfile.py`.

Dimension letters, used in all shape comments of the project:
B global queries, G documents per query, N = B·G documents, D embedding, L tokens, E hidden size, H
heads, K head size, F feed-forward size, V vocabulary.

Durations are text: "200 steps", "3 epochs", "10000 examples" or "10%" (of the run).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

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

    name: str
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    teacher: TowersConfig = field(default_factory=TowersConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    mine: MineConfig = field(default_factory=MineConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)

    @property
    def stages(self) -> Stages:
        """Which of the optional stages there are."""
        return Stages.of(self.name, self.distill.duration, self.refine.duration)


replace = dataclasses.replace
