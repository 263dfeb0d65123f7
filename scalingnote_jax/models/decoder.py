"""A decoder of the Llama kind: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

No language-model head: a tower needs hidden states. Positions of a text are 0 … L-1, also in packed
rows. Checked against SmolLM2 in `tests/parity`.

Shapes: B rows, L tokens, E hidden, H heads, H' key and value heads, K head size, F feed-forward,
V vocabulary.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.sharding import Sharding
from jax.typing import DTypeLike

from scalingnote_jax.config import DecoderShape
from scalingnote_jax.models import ops
from scalingnote_jax.models.lora import AdaptableLayers
from scalingnote_jax.models.params import embedding_normal, linear_param, ones, param, zeros
from scalingnote_jax.models.stack import apply_layers


class DecoderLayers(AdaptableLayers):
    """The weights of all layers, stacked; a call applies one layer (see `stack`)."""

    def __init__(self, shape: DecoderShape, *, rngs: nnx.Rngs, dtype: DTypeLike):
        super().__init__(dtype)
        self.eps, self.biased = shape.norm_eps, shape.qkv_bias
        n, e, f = shape.num_layers, shape.hidden_size, shape.intermediate_size
        h, g, k = shape.num_heads, shape.num_kv_heads, shape.head_dim
        key, over = rngs.params, "layers"
        self.attention_norm = param(key(), (n, e), (over, "norm"), ones)
        self.q = linear_param(key(), (n, e, h, k), (over, "embed", "heads", "head"))
        self.k = linear_param(key(), (n, e, g, k), (over, "embed", "kv_heads", "head"))
        self.v = linear_param(key(), (n, e, g, k), (over, "embed", "kv_heads", "head"))
        if shape.qkv_bias:
            self.q_bias = param(key(), (n, h, k), (over, "heads", "head"), zeros)
            self.k_bias = param(key(), (n, g, k), (over, "kv_heads", "head"), zeros)
            self.v_bias = param(key(), (n, g, k), (over, "kv_heads", "head"), zeros)
        self.o = linear_param(key(), (n, h, k, e), (over, "heads", "head", "embed"), inputs=2)
        self.mlp_norm = param(key(), (n, e), (over, "norm"), ones)
        self.gate = linear_param(key(), (n, e, f), (over, "embed", "mlp"))
        self.up = linear_param(key(), (n, e, f), (over, "embed", "mlp"))
        self.down = linear_param(key(), (n, f, e), (over, "mlp", "embed"))

    def __call__(self, x: Array, bias: Array, cos: Array, sin: Array) -> Array:
        """[B, L, E] → [B, L, E]; `bias`, `cos` and `sin` as `ops` makes them."""
        h = ops.rms_norm(x, self.attention_norm[...], self.eps)
        q, k, v = (self.linear(name, h) for name in "qkv")
        if self.biased:
            q, k, v = q + self.q_bias[...], k + self.k_bias[...], v + self.v_bias[...]
        q, k = ops.rotate(q, cos, sin), ops.rotate(k, cos, sin)  # [B, L, H, K], [B, L, H', K]
        x = x + self.linear("o", ops.attention(q, k, v, bias, self.dtype))
        h = ops.rms_norm(x, self.mlp_norm[...], self.eps)
        hidden = ops.swiglu(self.linear("gate", h), self.linear("up", h))  # [B, L, F]
        return x + self.linear("down", hidden)


class Embedding(nnx.Module):
    """A table of token vectors."""

    def __init__(self, shape: DecoderShape, *, rngs: nnx.Rngs):
        size = (shape.vocab_size, shape.hidden_size)
        self.table = param(rngs.params(), size, ("vocab", "embed"), embedding_normal)

    def __call__(self, tokens: Array, rows: Sharding | None) -> Array:
        """[B, L] int32 → [B, L, E]."""
        return ops.look_up(self.table[...], tokens, rows).astype(jnp.float32)


class Decoder(nnx.Module):
    """Tokens to hidden states."""

    def __init__(self, shape: DecoderShape, *, rngs: nnx.Rngs, remat: str, dtype: DTypeLike):
        self.shape, self.remat = shape, remat
        self.embedding = Embedding(shape, rngs=rngs)
        self.layers = DecoderLayers(shape, rngs=rngs, dtype=dtype)
        self.final_norm = param(rngs.params(), (shape.hidden_size,), ("norm",), ones)

    def __call__(self, tokens: Array, segments: Array, rows: Sharding | None = None) -> Array:
        """Hidden states after the final norm.

        Args:
            tokens: [B, L] int32, padded on the right.
            segments: [B, L] bool, True for a real token; or int32 for packed rows (see `pool`).
            rows: as for `apply_layers`.

        Returns:
            [B, L, E] float32; what stands at padded places has no meaning.
        """
        shape = self.shape
        x = self.embedding(tokens, rows)
        bias = ops.mask_bias(segments, causal=True)
        if segments.dtype == bool:
            cos, sin = ops.rotation(tokens.shape[1], shape.head_dim, shape.rope_theta)
        else:
            positions = ops.positions_of(segments)
            cos, sin = ops.rotation_at(positions, shape.head_dim, shape.rope_theta)
        x = apply_layers(self.layers, x, bias, cos, sin, remat=self.remat, rows=rows)
        return ops.rms_norm(x, self.final_norm[...], shape.norm_eps)
