"""A decoder of the Llama kind: RMSNorm, rotary positions, grouped-query attention, a gated
feed-forward layer; and what Qwen, Mistral and Gemma changed about it, by fields of the shape.

No language-model head: a tower needs hidden states. Positions of a text are 0 … L-1, also in packed
rows. Checked against SmolLM2 and, with random weights, against `transformers` in `tests/parity`.

Shapes: B rows, L tokens, E hidden, H heads, H' key and value heads, K head size, F feed-forward,
V vocabulary.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import Sharding
from jax.typing import DTypeLike

from scalingnote_jax.config import DecoderShape
from scalingnote_jax.models.layers import activations as act
from scalingnote_jax.models.layers import flash, ops
from scalingnote_jax.models.layers.params import embedding_normal, linear_param, ones, param, zeros
from scalingnote_jax.models.layers.rope import frequencies
from scalingnote_jax.models.layers.stack import apply_layers
from scalingnote_jax.models.layers.views import View, layer_views, local_layers, own_view
from scalingnote_jax.models.lora import AdaptableLayers


class DecoderLayers(AdaptableLayers):
    """The weights of all layers, stacked; a call applies one layer (see `stack`)."""

    def __init__(
        self,
        shape: DecoderShape,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        dropout: float = 0.0,
        causal: bool = True,
    ):
        super().__init__(dtype)
        self.shape, self.dropout, self.causal = shape, dropout, causal
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
        if shape.qk_norm:
            self.q_norm = param(key(), (n, k), (over, "head"), ones)
            self.k_norm = param(key(), (n, k), (over, "head"), ones)
        self.o = linear_param(key(), (n, h, k, e), (over, "heads", "head", "embed"), inputs=2)
        self.mlp_norm = param(key(), (n, e), (over, "norm"), ones)
        if shape.gemma:
            self.attention_out_norm = param(key(), (n, e), (over, "norm"), ones)
            self.mlp_out_norm = param(key(), (n, e), (over, "norm"), ones)
        self.gate = linear_param(key(), (n, e, f), (over, "embed", "mlp"))
        self.up = linear_param(key(), (n, e, f), (over, "embed", "mlp"))
        self.down = linear_param(key(), (n, f, e), (over, "mlp", "embed"))

    def __call__(
        self,
        x: Array,
        view: View,
        flash_rows: Any = None,
        *,
        local: Array | None = None,
        keys: Array | None = None,
    ) -> Array:
        """[B, L, E] → [B, L, E].

        Args:
            view, local: as `layer_views` makes them, `local` of this layer, int32 [].
            flash_rows: where the rows of x lie, if `flash.attention` is to be used; None otherwise.
            keys: [B], for dropout; None for none.
        """
        h = self._norm("attention_norm", x)
        attended = self._attention(h, flash_rows, *own_view(view, local))
        attended = ops.dropout(attended, self.dropout, keys, place=0)
        x = x + (self._norm("attention_out_norm", attended) if self.shape.gemma else attended)
        h = self._norm("mlp_norm", x)
        gated = act.geglu if self.shape.gemma else act.swiglu
        out = self.linear("down", gated(self.linear("gate", h), self.linear("up", h), self.dtype))
        out = ops.dropout(out, self.dropout, keys, place=1)
        return x + (self._norm("mlp_out_norm", out) if self.shape.gemma else out)

    def _norm(self, name: str, x: Array) -> Array:
        return act.rms_norm(x, getattr(self, name)[...], self.shape.norm_eps, self.dtype)

    def _attention(self, h: Array, flash_rows: Any, seen: Array, cos: Array, sin: Array) -> Array:
        shape = self.shape
        q, k, v = (self.linear(name, h) for name in "qkv")  # [B, L, H, K], twice [B, L, H', K]
        if shape.qkv_bias:
            q, k, v = q + self.q_bias[...], k + self.k_bias[...], v + self.v_bias[...]
        if shape.qk_norm:
            q, k = self._norm("q_norm", q), self._norm("k_norm", k)
        if shape.score_dim:
            q = q * (shape.head_dim / shape.score_dim) ** 0.5
        q, k = ops.rotate(q, cos, sin), ops.rotate(k, cos, sin)
        if flash_rows is None:
            return self.linear("o", ops.attention(q, k, v, seen, self.dtype, shape.score_cap))
        q, k, v = (x.astype(self.dtype) for x in (q, k, v))
        attended = flash.attention(
            q,
            k,
            v,
            seen,
            flash_rows,
            causal=self.causal,
            window=shape.window,
            cap=shape.score_cap,
        )
        return self.linear("o", attended)


class Embedding(nnx.Module):
    """A table of token vectors."""

    def __init__(self, shape: DecoderShape, *, rngs: nnx.Rngs):
        size = (shape.vocab_size, shape.hidden_size)
        self.scale = shape.hidden_size**0.5 if shape.gemma else 1.0
        self.table = param(rngs.params(), size, ("vocab", "embed"), embedding_normal)

    def __call__(self, tokens: Array, rows: Sharding | None) -> Array:
        """[B, L] int32 → [B, L, E]."""
        return ops.look_up(self.table[...], tokens, rows).astype(jnp.float32) * self.scale


class Decoder(nnx.Module):
    """Tokens to hidden states."""

    def __init__(
        self,
        shape: DecoderShape,
        *,
        rngs: nnx.Rngs,
        remat: str,
        dtype: DTypeLike,
        dropout: float = 0.0,
        causal: bool = True,
    ):
        self.shape, self.remat, self.causal = shape, remat, causal
        self.embedding = Embedding(shape, rngs=rngs)
        self.layers = DecoderLayers(shape, rngs=rngs, dtype=dtype, dropout=dropout, causal=causal)
        self.final_norm = param(rngs.params(), (shape.hidden_size,), ("norm",), ones)

    def __call__(
        self,
        tokens: Array,
        segments: Array,
        rows: Sharding | None = None,
        keys: Array | None = None,
    ) -> Array:
        """Hidden states after the final norm.

        Args:
            tokens: [B, L] int32, padded on the right.
            segments: [B, L] bool, True for a real token; or int32 for packed rows (see `pool`).
            rows, keys: as for `apply_layers`.

        Returns:
            [B, L, E] float32; what stands at padded places has no meaning.
        """
        return self.states(self.embedding(tokens, rows), segments, rows, keys)

    def states(
        self,
        x: Array,
        segments: Array,
        rows: Sharding | None = None,
        keys: Array | None = None,
    ) -> Array:
        """The same from the vectors [B, L, E] of the tokens on."""
        flash_rows = rows if flash.pays(self.shape, x.shape[1], rows) else None
        view, each = layer_views(
            local_layers(self.shape),
            segments,
            window=self.shape.window,
            causal=self.causal,
            turns=_turns(self.shape),
        )
        if flash_rows is not None:
            view = (segments, *view[1:])  # the kernel wants to know the texts, not a bias
        x = apply_layers(
            self.layers, x, view, flash_rows, each=each, keys=keys, remat=self.remat, rows=rows
        )
        return act.rms_norm(x, self.final_norm[...], self.shape.norm_eps, self.layers.dtype)


def _turns(shape: DecoderShape) -> tuple[np.ndarray, np.ndarray]:
    """Radians per position, of layers that see all and of those that see a window."""
    everywhere = frequencies(shape.head_dim, shape.rope_theta, shape.rope_scaling)
    if not shape.local_rope_theta:
        return everywhere, everywhere
    return everywhere, frequencies(shape.head_dim, shape.local_rope_theta)
