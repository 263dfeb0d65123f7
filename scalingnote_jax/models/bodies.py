"""The body of a tower by its shape: the one place that lists the architectures."""

from __future__ import annotations

from flax import nnx

from scalingnote_jax.config import DecoderShape, ModernBertShape
from scalingnote_jax.config.towers import Shape
from scalingnote_jax.models.bert import Bert
from scalingnote_jax.models.decoder import Decoder
from scalingnote_jax.models.layers.params import Tree, blueprint
from scalingnote_jax.models.lookup import Lookup
from scalingnote_jax.models.modernbert import ModernBert


def make_body(
    shape: Shape,
    *,
    rngs: nnx.Rngs,
    remat: str,
    dtype: str,
    dropout: float = 0.0,
    bidirectional: bool = False,
) -> Decoder | Bert | ModernBert | Lookup:
    """A body with random weights; `remat`, `dtype`, `dropout` and `bidirectional` as in
    `TowerConfig`.
    """
    if isinstance(shape, DecoderShape) and not shape.num_layers:
        return Lookup(shape, rngs=rngs, dtype=dtype)
    if isinstance(shape, DecoderShape):
        causal = not bidirectional
        return Decoder(shape, rngs=rngs, remat=remat, dtype=dtype, dropout=dropout, causal=causal)
    if isinstance(shape, ModernBertShape):
        return ModernBert(shape, rngs=rngs, remat=remat, dtype=dtype, dropout=dropout)
    return Bert(shape, rngs=rngs, remat=remat, dtype=dtype, dropout=dropout)


def body_blueprint(shape: Shape) -> tuple[nnx.GraphDef, Tree, Tree]:
    """Graph definition, shapes and axes of a float32 body without remat (see `blueprint`)."""
    return blueprint(lambda: make_body(shape, rngs=nnx.Rngs(0), remat="none", dtype="float32"))
