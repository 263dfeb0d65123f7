"""A ModernBERT encoder (arXiv 2412.13663): rotary positions, layer norm without biases before each
part of a layer, a gated feed-forward layer with the exact (erf) GELU; one layer in three sees all,
the others a window to both sides. Biases nowhere.

No head: a tower needs hidden states. Checked with random weights against `transformers` in
`tests/parity`.

Shapes: B rows, L tokens, E hidden, H heads, K head size, F feed-forward, V vocabulary.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.sharding import Sharding
from jax.typing import DTypeLike

from scalingnote_jax.config import ModernBertShape
from scalingnote_jax.models.layers import activations as act
from scalingnote_jax.models.layers import ops
from scalingnote_jax.models.layers.params import embedding_normal, linear_param, ones, param
from scalingnote_jax.models.layers.rope import frequencies
from scalingnote_jax.models.layers.stack import apply_layers
from scalingnote_jax.models.layers.views import View, layer_views, local_layers, own_view
from scalingnote_jax.models.lora import AdaptableLayers


class ModernBertLayers(AdaptableLayers):
    """The weights of all layers, stacked; a call applies one layer (see `stack`).

    The first layer takes the normed embedding as it is: its row of `attention_norm` has no use.
    """

    def __init__(
        self, shape: ModernBertShape, *, rngs: nnx.Rngs, dtype: DTypeLike, dropout: float = 0.0
    ):
        super().__init__(dtype)
        self.eps, self.dropout = shape.norm_eps, dropout
        n, e, f = shape.num_layers, shape.hidden_size, shape.intermediate_size
        h, k = shape.num_heads, e // shape.num_heads
        key, over = rngs.params, "layers"
        self.attention_norm = param(key(), (n, e), (over, "norm"), ones)
        self.q = linear_param(key(), (n, e, h, k), (over, "embed", "heads", "head"))
        self.k = linear_param(key(), (n, e, h, k), (over, "embed", "heads", "head"))
        self.v = linear_param(key(), (n, e, h, k), (over, "embed", "heads", "head"))
        self.o = linear_param(key(), (n, h, k, e), (over, "heads", "head", "embed"), inputs=2)
        self.mlp_norm = param(key(), (n, e), (over, "norm"), ones)
        self.gate = linear_param(key(), (n, e, f), (over, "embed", "mlp"))
        self.up = linear_param(key(), (n, e, f), (over, "embed", "mlp"))
        self.down = linear_param(key(), (n, f, e), (over, "mlp", "embed"))

    def __call__(
        self,
        x: Array,
        view: View,
        *,
        first: Array,
        local: Array | None = None,
        keys: Array | None = None,
    ) -> Array:
        """[B, L, E] → [B, L, E].

        Args:
            view, local: as `layer_views` makes them, `local` of this layer, int32 [].
            first: whether this is the first layer, bool [].
            keys: [B], for dropout; None for none.
        """
        bias, cos, sin = own_view(view, local)
        h = jnp.where(first, x, self._norm("attention_norm", x))
        q, k, v = (self.linear(name, h) for name in "qkv")  # [B, L, H, K]
        q, k = ops.rotate(q, cos, sin), ops.rotate(k, cos, sin)
        out = self.linear("o", ops.attention(q, k, v, bias, self.dtype))
        x = x + ops.dropout(out, self.dropout, keys, place=0)
        h = self._norm("mlp_norm", x)
        h = act.exact_geglu(self.linear("gate", h), self.linear("up", h), self.dtype)
        return x + ops.dropout(self.linear("down", h), self.dropout, keys, place=1)

    def _norm(self, name: str, x: Array) -> Array:
        return act.layer_norm(x, getattr(self, name)[...], 0.0, self.eps, self.dtype)


class ModernBertEmbedding(nnx.Module):
    """A table of token vectors, and a norm behind it."""

    def __init__(self, shape: ModernBertShape, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.dtype = dtype
        size, self.eps = (shape.vocab_size, shape.hidden_size), shape.norm_eps
        self.table = param(rngs.params(), size, ("vocab", "embed"), embedding_normal)
        self.norm = param(rngs.params(), size[1:], ("norm",), ones)

    def __call__(self, tokens: Array, rows: Sharding | None) -> Array:
        """[B, L] int32 → [B, L, E]."""
        x = ops.look_up(self.table[...], tokens, rows).astype(jnp.float32)
        return act.layer_norm(x, self.norm[...], 0.0, self.eps, self.dtype)


class ModernBert(nnx.Module):
    """Tokens to hidden states."""

    def __init__(
        self,
        shape: ModernBertShape,
        *,
        rngs: nnx.Rngs,
        remat: str,
        dtype: DTypeLike,
        dropout: float = 0.0,
    ):
        self.shape, self.remat = shape, remat
        self.embedding = ModernBertEmbedding(shape, rngs=rngs, dtype=dtype)
        self.layers = ModernBertLayers(shape, rngs=rngs, dtype=dtype, dropout=dropout)
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
        shape = self.shape
        head_dim = shape.hidden_size // shape.num_heads
        view, each = layer_views(
            local_layers(shape),
            segments,
            window=2 * shape.reach,  # half of it to each side
            causal=False,
            turns=(
                frequencies(head_dim, shape.rope_theta),
                frequencies(head_dim, shape.local_rope_theta),
            ),
        )
        each["first"] = jnp.arange(shape.num_layers) == 0
        x = self.embedding(tokens, rows)
        x = apply_layers(self.layers, x, view, each=each, keys=keys, remat=self.remat, rows=rows)
        return act.layer_norm(x, self.final_norm[...], 0.0, shape.norm_eps, self.layers.dtype)
