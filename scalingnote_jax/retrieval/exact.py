"""Exact search by dot product: what ANN recall is measured against.

One compiled function for all blocks: documents and queries are cut into blocks of a fixed shape,
the last padded and masked, so that device memory is bounded by one block of scores and of documents
whatever n is. On a mesh each device scores its part of a block of documents.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from scalingnote_jax.errors import bad_input

QUERY_BLOCK = 256  # queries scored at once: with the default block_rows, 8 MiB of scores


def exact_search(
    queries: np.ndarray,
    vectors: np.ndarray,
    k: int,
    block_rows: int = 8192,
    mesh: Mesh | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best documents of each query, best first; equal scores in order of row.

    Args:
        queries: [q, D] float32.
        vectors: [n, D] float32; may be memory-mapped, one block at a time is read.
        k: documents per query, 1 <= k <= n.
        block_rows: documents scored at once.
        mesh: the devices, every process with the same arguments; None for one local device.

    Returns:
        scores [q, k] float32 and rows [q, k] int32.

    Raises:
        UserError: k is out of range.
        ValueError: the shapes do not fit.
    """
    check_search(queries, vectors.shape, k)
    if len(queries) == 0:
        return np.empty((0, k), np.float32), np.empty((0, k), np.int32)
    n = len(vectors)
    mesh = mesh or Mesh(np.asarray(jax.local_devices()[:1]), ("data",))
    whole = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    block = -(-max(k, min(block_rows, n)) // mesh.size) * mesh.size
    q_block = min(QUERY_BLOCK, 1 << (len(queries) - 1).bit_length())  # few shapes, few compiles
    q_starts = range(0, len(queries), q_block)
    asked = [_put(_padded(queries, start, q_block), whole) for start in q_starts]
    no_scores = np.full((q_block, k), -np.inf, np.float32)
    nothing = (_put(no_scores, whole), _put(np.zeros((q_block, k), np.int32), whole))
    best = [nothing for _ in asked]
    for first_row in range(0, n, block):  # documents outside: each block is read and moved once
        docs = _put(_padded(vectors, first_row, block), split)
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
        UserError: k is out of range.
        ValueError: the shapes do not fit.
    """
    n, dim = store_shape
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise ValueError(f"queries are {queries.shape}; expected (q, {dim}), as the vectors are")
    if not 1 <= k <= n:
        raise bad_input("k", str(k), f"1 to {n}, the number of documents", "ask for fewer")


def _padded(matrix: np.ndarray, start: int, rows: int) -> np.ndarray:
    """Rows `start` onwards, with zero rows below up to `rows`."""
    part = np.asarray(matrix[start : start + rows], np.float32)
    return np.pad(part, ((0, rows - len(part)), (0, 0))) if len(part) < rows else part


def _put(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A global array of which each process has the whole copy on its host."""
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


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
