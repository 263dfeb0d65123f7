"""A step in parts, for batches that do not fit at once.

Two ways that must not be confused. Encoding in chunks (GradCache, arXiv 2101.06983) bounds the
memory of the towers and changes nothing: the loss still sees the whole batch. Accumulation is the
mean of the gradients of smaller batches: a query then meets only the negatives of its own part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Sharding

from scalingnote_jax.models.chunks import split_rows


def accumulated_grad(
    loss_fn: Callable[[Any, dict[str, jax.Array]], tuple[jax.Array, Any]],
    params: Any,
    batch: dict[str, jax.Array],
    rows: Sharding | None,
    *,
    parts: int,
    shared: tuple[str, ...] = (),
) -> tuple[Any, Any]:
    """The mean over `parts` parts of the batch of the gradient of `loss_fn`, one part at a time.

    Args:
        loss_fn: (params, batch) → (loss, metrics of (sum, count)).
        params: what to differentiate by.
        batch: arrays [B, …]; B as for `encode_in_chunks`.
        shared: names in the batch of what is not of its rows: every part sees all of it.

    Returns:
        The gradients, and the metrics with sums and counts added up.
    """
    grad = jax.grad(loss_fn, has_aux=True)
    if parts == 1:
        return grad(params, batch)

    whole = {name: x for name, x in batch.items() if name in shared}

    def add(total: Any, part: dict[str, jax.Array]) -> tuple[Any, Any]:
        grads, metrics = grad(params, part | whole)
        return jax.tree.map(jnp.add, total, grads), metrics

    zeros = jax.tree.map(jnp.zeros_like, params)
    split = {name: split_rows(x, parts, rows) for name, x in batch.items() if name not in shared}
    total, metrics = jax.lax.scan(add, zeros, split)
    grads = jax.tree.map(lambda x: x / parts, total)
    return grads, jax.tree.map(lambda x: x.sum(0), metrics)
