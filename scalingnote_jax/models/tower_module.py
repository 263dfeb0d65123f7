"""The network of one tower: body, pooling, projection. Everybody else calls it by its functional
face, `TowerDef` in `towers.py`.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.sharding import Sharding

from scalingnote_jax.config import TowerConfig
from scalingnote_jax.config.towers import Shape
from scalingnote_jax.models.bodies import make_body
from scalingnote_jax.models.decoder import Decoder
from scalingnote_jax.models.layers.language import log_likelihood
from scalingnote_jax.models.layers.params import orthogonal, param
from scalingnote_jax.models.layers.pooling import pool, pool_beginnings
from scalingnote_jax.models.lora import adapt, store_in


class Tower(nnx.Module):
    """Tokens to one vector per row."""

    def __init__(self, cfg: TowerConfig, shape: Shape, *, rngs: nnx.Rngs, integers: bool = False):
        """`rngs` has the streams "params", "projection" and "lora": what one part draws changes
        nothing in the others. `integers`: as in `TowerDef`."""
        self.pooling = cfg.pooling
        self.body = make_body(
            shape,
            rngs=rngs,
            remat=cfg.remat,
            dtype=cfg.dtype,
            dropout=cfg.dropout,
            bidirectional=cfg.bidirectional,
        )
        store_in(self.body, cfg.lora.base_dtype)
        if cfg.lora.rank:
            adapt(self.body.layers, cfg.lora, rngs)
        if integers:
            self.body.layers.integers = True
        self.projects = bool(cfg.projection)
        if self.projects:
            size = (shape.hidden_size, cfg.projection)
            self.projection = param(rngs.projection(), size, ("embed", "proj"), orthogonal)

    def __call__(
        self,
        tokens: Array,
        segments: Array,
        rows: Sharding | None = None,
        texts_per_row: int = 0,
        keys: Array | None = None,
        beginnings: Array | None = None,
    ) -> Array:
        """As `TowerDef.apply`."""
        hidden = self.body(tokens, segments, rows, keys)
        pooled = pool(hidden, segments, self.pooling, texts_per_row)  # [B, E] or [B, S, E]
        if beginnings is not None:
            first = pool_beginnings(hidden, beginnings, pooled, self.pooling, texts_per_row)
            pooled = jnp.stack([pooled, first], axis=-2)
        return pooled @ self.projection[...] if self.projects else pooled

    def log_likelihood(
        self,
        vectors: Array,
        tokens: Array,
        mask: Array,
        rows: Sharding | None = None,
        keys: Array | None = None,
    ) -> Array:
        """As `TowerDef.log_likelihood`."""
        assert isinstance(self.body, Decoder)
        start = vectors @ self.projection[...].T if self.projects else vectors
        return log_likelihood(self.body, start, tokens, mask, rows, keys)
