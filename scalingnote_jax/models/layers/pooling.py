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
            real tokens), "cls" (the first token), or "marker": as "last", of texts that were cut
            just before their marker (`text/prompts.py`).
        texts_per_row: S, the most texts in a packed row; 0 where a row is one text.

    Returns:
        [B, E], or [B, S, E] of packed rows; float32.
    """
    hidden = hidden.astype(jnp.float32)
    if not texts_per_row:
        return _pool(hidden, segments[:, None, :], how)[:, 0]
    return _pool(hidden, segments[:, None, :] == jnp.arange(1, texts_per_row + 1)[:, None], how)


def pool_beginnings(
    hidden: Array, beginnings: Array, pooled: Array, how: str, texts_per_row: int = 0
) -> Array:
    """The vector of the beginning of each text, by itself: where no token sees a later one, its
    states are as they would be without the rest.

    Args:
        hidden, how, texts_per_row: as for `pool`.
        beginnings: as the segments, of the first tokens of each text.
        pooled: what `pool` gives for whole texts; stands for those that have no beginning.

    Returns:
        As `pool`.
    """
    numbers = jnp.arange(1, texts_per_row + 1)[:, None]
    of_text = beginnings[:, None, :] == numbers if texts_per_row else beginnings
    there = of_text.any(axis=-1, keepdims=True)  # [B, 1] or [B, S, 1]
    return jnp.where(there, pool(hidden, beginnings, how, texts_per_row), pooled)


def _pool(hidden: Array, mask: Array, how: str) -> Array:
    """[B, L, E] and, of each of S texts, the tokens [B, S, L] bool → [B, S, E]."""
    if how == "mean":
        weight = mask.astype(jnp.float32)
        total = jnp.einsum("bsl,ble->bse", weight, hidden)
        return total / jnp.maximum(jnp.sum(weight, axis=-1, keepdims=True), 1.0)
    assert how in ("last", "cls", "marker"), how
    if how != "cls":
        chosen = mask.shape[-1] - 1 - jnp.argmax(mask[..., ::-1], axis=-1)  # [B, S]
    else:
        chosen = jnp.argmax(mask, axis=-1)
    return jnp.take_along_axis(hidden, chosen[..., None], axis=1)
