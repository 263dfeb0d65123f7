"""A body without layers: each token's vector is its row of the table, whatever stands around it. A
query then costs a look-up, a mean and the projection: the cheapest query tower there is, and the
lower bound of what layers are worth (LightRetriever, arXiv 2505.12260, looks its queries up too).

No norm behind the table, unlike in the families that the table comes from: how long a token's
vector is says how much the token counts in the mean. Not for documents in particular, nor refused
there.

Shapes: B rows, L tokens, E hidden.
"""

from __future__ import annotations

from flax import nnx
from jax import Array
from jax.sharding import Sharding
from jax.typing import DTypeLike

from scalingnote_jax.config import DecoderShape
from scalingnote_jax.models.decoder import Embedding
from scalingnote_jax.models.lora import AdaptableLayers


class Lookup(nnx.Module):
    """Tokens to their vectors."""

    def __init__(self, shape: DecoderShape, *, rngs: nnx.Rngs, dtype: DTypeLike):
        self.embedding = Embedding(shape, rngs=rngs)
        self.layers = AdaptableLayers(dtype)  # none, and so nothing to adapt or to quantise

    def __call__(
        self,
        tokens: Array,
        segments: Array,
        rows: Sharding | None = None,
        keys: Array | None = None,
    ) -> Array:
        """[B, L] int32 → [B, L, E] float32; arguments as for the other bodies, the first and `rows`
        used.
        """
        return self.embedding(tokens, rows)
