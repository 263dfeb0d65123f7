"""Exact search by dot product: what ANN recall is measured against.

One compiled function for all blocks: documents and queries are cut into blocks of a fixed shape,
the last padded and masked, so that device memory is bounded by one block of scores and of documents
whatever n is. Runs on the default device.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

QUERY_BLOCK = 256  # queries scored at once: with the default block_rows, 8 MiB of scores


def exact_search(
    queries: np.ndarray, vectors: np.ndarray, k: int, block_rows: int = 8192
) -> tuple[np.ndarray, np.ndarray]:
    """The k best documents of each query, best first; equal scores in order of row.

    Args:
        queries: [q, D] float32.
        vectors: [n, D] float32; may be memory-mapped, one block at a time is read.
        k: documents per query, 1 <= k <= n.
        block_rows: documents scored at once.

    Returns:
        scores [q, k] float32 and rows [q, k] int32.

    Raises:
        ValueError: k or a shape does not fit.
    """
    check_search(queries, vectors.shape, k)
    if len(queries) == 0:
        return np.empty((0, k), np.float32), np.empty((0, k), np.int32)
    n = len(vectors)
    block = max(k, min(block_rows, n))
    q_block = min(QUERY_BLOCK, 1 << (len(queries) - 1).bit_length())  # few shapes, few compiles
    q_starts = range(0, len(queries), q_block)
    asked = [jnp.asarray(_padded(queries, start, q_block)) for start in q_starts]
    nothing = (jnp.full((q_block, k), -jnp.inf, jnp.float32), jnp.zeros((q_block, k), jnp.int32))
    best = [nothing for _ in asked]
    for first_row in range(0, n, block):  # documents outside: each block is read and moved once
        docs = jnp.asarray(_padded(vectors, first_row, block))
        best = [
            _merge(found, some, docs, first_row, n, k=k)
            for found, some in zip(best, asked, strict=True)
        ]
    scores = np.concatenate([np.asarray(scores) for scores, _ in best])
    rows = np.concatenate([np.asarray(rows) for _, rows in best])
    return scores[: len(queries)], rows[: len(queries)]


def check_search(queries: np.ndarray, store_shape: tuple[int, ...], k: int) -> None:
    """Checks a search of `queries` [q, D] for k documents in a store of shape (n, D).

    Raises:
        ValueError: k or a shape does not fit.
    """
    n, dim = store_shape
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise ValueError(f"queries are {queries.shape}; expected (q, {dim}), as the vectors are")
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}; expected 1 to {n}, the number of vectors")


def _padded(matrix: np.ndarray, start: int, rows: int) -> np.ndarray:
    """Rows `start` onwards, with zero rows below up to `rows`."""
    part = np.asarray(matrix[start : start + rows], np.float32)
    return np.pad(part, ((0, rows - len(part)), (0, 0))) if len(part) < rows else part


@partial(jax.jit, static_argnames="k")
def _merge(
    best: tuple[jax.Array, jax.Array],
    queries: jax.Array,
    docs: jax.Array,
    first_row: int,
    n: int,
    k: int,
) -> tuple[jax.Array, jax.Array]:
    """The best k of what was found so far and one block of documents.

    `top_k` prefers the lower position among equals, and earlier blocks stand in front: so ties go
    to the lower row.
    """
    # HIGHEST: accelerators would otherwise multiply in bf16, and this is the exact side.
    scores = jnp.einsum("qd,nd->qn", queries, docs, precision=jax.lax.Precision.HIGHEST)
    rows = first_row + jnp.arange(docs.shape[0], dtype=jnp.int32)
    scores = jnp.where(rows < n, scores, -jnp.inf)  # padding
    all_scores = jnp.concatenate([best[0], scores], axis=1)  # [q, k + n]
    all_rows = jnp.concatenate([best[1], jnp.broadcast_to(rows, scores.shape)], axis=1)
    top, where = jax.lax.top_k(all_scores, k)
    return top, jnp.take_along_axis(all_rows, where, axis=1)
