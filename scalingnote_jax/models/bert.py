"""A BERT-type encoder: learned positions, post-layer-norm, exact (erf) GELU, biases everywhere.

Token type 0 throughout, and no pooler (`pooling.py` does that). Checked against MiniLM in
`tests/parity`.

Shapes: B rows, L tokens, E hidden, H heads, K head size, F feed-forward, V vocabulary.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.sharding import Sharding
from jax.typing import DTypeLike

from scalingnote_jax.config import BertShape
from scalingnote_jax.models.layers import activations as act
from scalingnote_jax.models.layers import ops
from scalingnote_jax.models.layers.params import embedding_normal, linear_param, ones, param, zeros
from scalingnote_jax.models.layers.stack import apply_layers
from scalingnote_jax.models.lora import AdaptableLayers


class BertLayers(AdaptableLayers):
    """The weights of all layers, stacked; a call applies one layer (see `stack`)."""

    def __init__(self, shape: BertShape, *, rngs: nnx.Rngs, dtype: DTypeLike, dropout: float = 0.0):
        super().__init__(dtype)
        self.eps, self.dropout = shape.norm_eps, dropout
        n, e, f = shape.num_layers, shape.hidden_size, shape.intermediate_size
        h, k = shape.num_heads, e // shape.num_heads
        key, over = rngs.params, "layers"
        heads = ("heads", "head")
        self.q = linear_param(key(), (n, e, h, k), (over, "embed", *heads))
        self.q_bias = param(key(), (n, h, k), (over, *heads), zeros)
        self.k = linear_param(key(), (n, e, h, k), (over, "embed", *heads))
        self.k_bias = param(key(), (n, h, k), (over, *heads), zeros)
        self.v = linear_param(key(), (n, e, h, k), (over, "embed", *heads))
        self.v_bias = param(key(), (n, h, k), (over, *heads), zeros)
        self.o = linear_param(key(), (n, h, k, e), (over, *heads, "embed"), inputs=2)
        self.o_bias = param(key(), (n, e), (over, "norm"), zeros)
        self.attention_norm = param(key(), (n, e), (over, "norm"), ones)
        self.attention_norm_bias = param(key(), (n, e), (over, "norm"), zeros)
        self.up = linear_param(key(), (n, e, f), (over, "embed", "mlp"))
        self.up_bias = param(key(), (n, f), (over, "mlp"), zeros)
        self.down = linear_param(key(), (n, f, e), (over, "mlp", "embed"))
        self.down_bias = param(key(), (n, e), (over, "norm"), zeros)
        self.mlp_norm = param(key(), (n, e), (over, "norm"), ones)
        self.mlp_norm_bias = param(key(), (n, e), (over, "norm"), zeros)

    def __call__(self, x: Array, bias: Array, *, keys: Array | None = None) -> Array:
        """[B, L, E] → [B, L, E]; `bias` as `ops.mask_bias` makes it; `keys` [B] for dropout."""
        q = self.linear("q", x) + self.q_bias[...]  # [B, L, H, K]
        k = self.linear("k", x) + self.k_bias[...]
        v = self.linear("v", x) + self.v_bias[...]
        attended = ops.attention(q, k, v, bias, self.dtype)
        out = self.linear("o", attended) + self.o_bias[...]
        x = x + ops.dropout(out, self.dropout, keys, place=0)
        x = self._norm("attention_norm", x)
        h = act.gelu(self.linear("up", x) + self.up_bias[...], self.dtype)
        out = self.linear("down", h) + self.down_bias[...]
        x = x + ops.dropout(out, self.dropout, keys, place=1)
        return self._norm("mlp_norm", x)

    def _norm(self, name: str, x: Array) -> Array:
        scale, bias = getattr(self, name)[...], getattr(self, f"{name}_bias")[...]
        return act.layer_norm(x, scale, bias, self.eps, self.dtype)


class BertEmbedding(nnx.Module):
    """Vectors of tokens, positions and the one token type that is used, summed and normed."""

    def __init__(self, shape: BertShape, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.eps, e, key = shape.norm_eps, shape.hidden_size, rngs.params
        self.dtype = dtype
        table, positions, types = shape.vocab_size, shape.max_positions, shape.type_vocab_size
        self.table = param(key(), (table, e), ("vocab", "embed"), embedding_normal)
        self.positions = param(key(), (positions, e), ("positions", "embed"), embedding_normal)
        self.types = param(key(), (types, e), ("types", "embed"), embedding_normal)
        self.norm = param(key(), (e,), ("norm",), ones)
        self.norm_bias = param(key(), (e,), ("norm",), zeros)

    def __call__(self, tokens: Array, segments: Array, rows: Sharding | None) -> Array:
        """[B, L] int32 → [B, L, E]."""
        x = ops.look_up(self.table[...], tokens, rows).astype(jnp.float32)
        if segments.dtype == bool:
            positions = self.positions[: tokens.shape[1]]
        else:
            positions = jnp.take(
                self.positions[...], ops.positions_of(segments), axis=0, mode="clip"
            )
        x = x + positions + self.types[0]
        return act.layer_norm(x, self.norm[...], self.norm_bias[...], self.eps, self.dtype)


class Bert(nnx.Module):
    """Tokens to hidden states."""

    def __init__(
        self,
        shape: BertShape,
        *,
        rngs: nnx.Rngs,
        remat: str,
        dtype: DTypeLike,
        dropout: float = 0.0,
    ):
        self.remat = remat
        self.embedding = BertEmbedding(shape, rngs=rngs, dtype=dtype)
        self.layers = BertLayers(shape, rngs=rngs, dtype=dtype, dropout=dropout)

    def __call__(
        self,
        tokens: Array,
        segments: Array,
        rows: Sharding | None = None,
        keys: Array | None = None,
    ) -> Array:
        """Hidden states of the last layer.

        Args:
            tokens: [B, L] int32; no text longer than `max_positions`.
            segments: [B, L] bool, True for a real token; or int32 for packed rows (see `pool`).
            rows, keys: as for `apply_layers`.

        Returns:
            [B, L, E] float32; what stands at padded places has no meaning.
        """
        x = self.embedding(tokens, segments, rows)
        bias = ops.mask_bias(segments, causal=False)
        return apply_layers(self.layers, x, bias, keys=keys, remat=self.remat, rows=rows)
