"""A Llama-type decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU, no biases.

No language-model head: a tower needs hidden states. Texts are padded on the right, so positions are
0 … L-1. Checked against SmolLM2 in `tests/parity`.

Shapes: B rows, L tokens, E hidden, H heads, H' key and value heads, K head size, F feed-forward,
V vocabulary.
"""

from __future__ import annotations

from flax import nnx
from jax import Array
from jax.sharding import Sharding
from jax.typing import DTypeLike

from scalingnote_jax.config import DecoderShape
from scalingnote_jax.models import ops
from scalingnote_jax.models.params import embedding_normal, fan_in_normal, ones, param
from scalingnote_jax.models.stack import apply_layers


class DecoderLayers(nnx.Module):
    """The weights of all layers, stacked; a call applies one layer (see `stack`)."""

    def __init__(self, shape: DecoderShape, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.eps, self.dtype = shape.norm_eps, dtype
        n, e, f = shape.num_layers, shape.hidden_size, shape.intermediate_size
        h, g, k = shape.num_heads, shape.num_kv_heads, shape.head_dim
        key, wide, over = rngs.params, fan_in_normal(e), "layers"
        self.attention_norm = param(key(), (n, e), (over, "norm"), ones)
        self.q = param(key(), (n, e, h, k), (over, "embed", "heads", "head"), wide)
        self.k = param(key(), (n, e, g, k), (over, "embed", "kv_heads", "head"), wide)
        self.v = param(key(), (n, e, g, k), (over, "embed", "kv_heads", "head"), wide)
        self.o = param(key(), (n, h, k, e), (over, "heads", "head", "embed"), fan_in_normal(h * k))
        self.mlp_norm = param(key(), (n, e), (over, "norm"), ones)
        self.gate = param(key(), (n, e, f), (over, "embed", "mlp"), wide)
        self.up = param(key(), (n, e, f), (over, "embed", "mlp"), wide)
        self.down = param(key(), (n, f, e), (over, "mlp", "embed"), fan_in_normal(f))

    def __call__(self, x: Array, bias: Array, cos: Array, sin: Array) -> Array:
        """[B, L, E] → [B, L, E]; `bias`, `cos` and `sin` as `ops` makes them."""
        dtype = self.dtype
        h = ops.rms_norm(x, self.attention_norm[...], self.eps)
        q = ops.rotate(ops.linear(h, self.q[...], dtype), cos, sin)  # [B, L, H, K]
        k = ops.rotate(ops.linear(h, self.k[...], dtype), cos, sin)  # [B, L, H', K]
        v = ops.linear(h, self.v[...], dtype)
        x = x + ops.linear(ops.attention(q, k, v, bias, dtype), self.o[...], dtype, inputs=2)
        h = ops.rms_norm(x, self.mlp_norm[...], self.eps)
        gate, up = (ops.linear(h, w[...], dtype) for w in (self.gate, self.up))  # [B, L, F]
        return x + ops.linear(ops.swiglu(gate, up), self.down[...], dtype)


class Embedding(nnx.Module):
    """A table of token vectors."""

    def __init__(self, shape: DecoderShape, *, rngs: nnx.Rngs):
        size = (shape.vocab_size, shape.hidden_size)
        self.table = param(rngs.params(), size, ("vocab", "embed"), embedding_normal)

    def __call__(self, tokens: Array) -> Array:
        """[B, L] int32 → [B, L, E]."""
        return ops.look_up(self.table[...], tokens)


class Decoder(nnx.Module):
    """Tokens to hidden states."""

    def __init__(self, shape: DecoderShape, *, rngs: nnx.Rngs, remat: str, dtype: DTypeLike):
        self.shape, self.remat = shape, remat
        self.embedding = Embedding(shape, rngs=rngs)
        self.layers = DecoderLayers(shape, rngs=rngs, dtype=dtype)
        self.final_norm = param(rngs.params(), (shape.hidden_size,), ("norm",), ones)

    def __call__(self, tokens: Array, mask: Array, rows: Sharding | None = None) -> Array:
        """Hidden states after the final norm.

        Args:
            tokens: [B, L] int32, padded on the right.
            mask: [B, L] bool, True for a real token.
            rows: as for `apply_layers`.

        Returns:
            [B, L, E] float32; what stands at padded places has no meaning.
        """
        shape = self.shape
        x = self.embedding(tokens)
        bias = ops.mask_bias(mask, causal=True)
        cos, sin = ops.rotation(tokens.shape[1], shape.head_dim, shape.rope_theta)
        x = apply_layers(self.layers, x, bias, cos, sin, remat=self.remat, rows=rows)
        return ops.rms_norm(x, self.final_norm[...], shape.norm_eps)
