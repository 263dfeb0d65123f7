"""From the hidden states of a text to its one vector. Not for the projection or the L2 norm."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def pool(hidden: Array, segments: Array, how: str, texts_per_row: int = 0) -> Array:
    """The vector of each text.

    Args:
        hidden: [B, L, E].
        segments: [B, L]; bool, True for a real token, where a row is one text; int32 for packed
            rows, the number of the text in its row, from 1, and 0 for padding. A text without any
            token gives finite numbers.
        how: "last" (the last real token, found in the mask and never by a pad id), "mean" (over the
            real tokens) or "cls" (the first token).
        texts_per_row: S, the most texts in a packed row; 0 where a row is one text.

    Returns:
        [B, E], or [B, S, E] of packed rows; float32.
    """
    hidden = hidden.astype(jnp.float32)
    if not texts_per_row:
        return _pool(hidden, segments[:, None, :], how)[:, 0]
    return _pool(hidden, segments[:, None, :] == jnp.arange(1, texts_per_row + 1)[:, None], how)


def _pool(hidden: Array, mask: Array, how: str) -> Array:
    """[B, L, E] and, of each of S texts, the tokens [B, S, L] bool → [B, S, E]."""
    if how == "mean":
        weight = mask.astype(jnp.float32)
        total = jnp.einsum("bsl,ble->bse", weight, hidden)
        return total / jnp.maximum(jnp.sum(weight, axis=-1, keepdims=True), 1.0)
    assert how in ("last", "cls"), how
    if how == "last":
        chosen = mask.shape[-1] - 1 - jnp.argmax(mask[..., ::-1], axis=-1)  # [B, S]
    else:
        chosen = jnp.argmax(mask, axis=-1)
    return jnp.take_along_axis(hidden, chosen[..., None], axis=1)
