"""From the hidden states of a text to its one vector. Not for the projection or the L2 norm."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def pool(hidden: Array, mask: Array, how: str) -> Array:
    """The vector of each row.

    Args:
        hidden: [B, L, E].
        mask: [B, L] bool, True for a real token; a row without any gives finite numbers.
        how: "last" (the last real token, found in the mask and never by a pad id), "mean" (over the
            real tokens) or "cls" (the first token).

    Returns:
        [B, E] float32.
    """
    hidden = hidden.astype(jnp.float32)
    if how == "last":
        last = mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1)  # [B]
        return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
    if how == "mean":
        weight = mask.astype(jnp.float32)
        total = jnp.sum(hidden * weight[..., None], axis=1)
        return total / jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), 1.0)
    assert how == "cls", how
    return hidden[:, 0]
