"""The spread-out term: vectors of different texts of one side should be orthogonal on average, so
that the narrow cone that LLM vectors lie in opens.

Source: the second moment of non-matching pairs of the global orthogonal regularizer (Zhang et al.,
"Learning Spread-out Local Feature Descriptors", 2017, section 3.2), alone and on both queries and
positive documents as EmbeddingGemma uses it (arXiv 2509.20354). Ours: what "different" means is
decided by ids, and each text counts once, by its first row in the batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def first_rows(ids: jax.Array) -> jax.Array:
    """1.0 at the first row of each id, 0.0 elsewhere: [B] int32 → [B] float32."""
    size = ids.shape[0]
    _, first = jnp.unique(ids, return_index=True, size=size)  # padded with a row that is in it
    return jnp.zeros(size, jnp.float32).at[first].set(1.0)


def spread_by_pairs(emb: jax.Array, ids: jax.Array) -> jax.Array:
    """Mean squared cosine over the pairs of different texts, in its plain form.

    Args:
        emb: [B, D] float32, unit vectors.
        ids: [B] int32, equal for equal texts.

    Returns:
        [] float32; 0 with fewer than two texts.
    """
    once = first_rows(ids)
    cosines = jnp.einsum("bd,cd->bc", emb, emb, precision="highest")
    pairs = once[:, None] * once[None, :] * (1.0 - jnp.eye(len(ids)))
    return (pairs * jnp.square(cosines)).sum() / jnp.maximum(pairs.sum(), 1.0)


def spread_by_moments(emb: jax.Array, ids: jax.Array) -> jax.Array:
    """The same number with no [B, B] matrix: Σ_ij (x_i·x_j)² = ‖Σ_i x_i x_iᵀ‖² (Frobenius), a
    D × D matrix; the pairs i = i are then taken off.

    Args and returns as `spread_by_pairs`.
    """
    once = first_rows(ids)
    moments = jnp.einsum("b,bd,be->de", once, emb, emb, precision="highest")
    own = (once * jnp.square(jnp.square(emb).sum(-1))).sum()
    texts = once.sum()
    pairs = jnp.maximum(texts * (texts - 1.0), 1.0)
    return (jnp.square(moments).sum() - own) / pairs
