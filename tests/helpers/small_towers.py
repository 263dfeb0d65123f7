"""Towers small enough to compile in a second, with weights that hide nothing."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from scalingnote_jax.config import BertShape, DecoderShape, ModernBertShape, TowerConfig
from scalingnote_jax.models.tower import TowerDef, tower_def

DECODER = DecoderShape(
    vocab_size=50,
    hidden_size=24,
    intermediate_size=40,
    num_layers=3,
    num_heads=6,
    num_kv_heads=2,
    head_dim=8,
    rope_theta=100.0,
)
BERT = BertShape(
    vocab_size=50,
    hidden_size=24,
    intermediate_size=40,
    num_layers=3,
    num_heads=4,
    max_positions=64,
)
# Layers 0 and 3 see all.
MODERNBERT = ModernBertShape(
    vocab_size=50,
    hidden_size=24,
    intermediate_size=40,
    num_layers=5,
    num_heads=3,
    reach=2,
    rope_theta=100.0,
    local_rope_theta=20.0,
)


def define(shape: DecoderShape | BertShape | ModernBertShape, **changes: Any) -> TowerDef:
    return tower_def(TowerConfig(weights="random", shape=shape, **changes))


def random_params(tower: TowerDef, seed: int = 0) -> dict[str, Any]:
    """No bias at zero and no scale at one, where one that is forgotten would not be seen."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, x: Any) -> np.ndarray:
        mean = 1.0 if "norm" in path[-1].key and "bias" not in path[-1].key else 0.0
        return (mean + 0.2 * rng.normal(size=x.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, tower.abstract()[0])
