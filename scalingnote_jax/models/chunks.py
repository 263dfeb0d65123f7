"""Texts through a tower in chunks (GradCache, arXiv 2101.06983): less memory for activations, the
same numbers and gradients, since the loss still sees the whole batch. Not to be confused with
`train/microbatch.py`, whose parts have a loss each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from scalingnote_jax.models.tower import TowerDef


def split_rows(x: jax.Array, parts: int, rows: Sharding | None) -> jax.Array:
    """[B, …] → [parts, B / parts, …], such that every device splits the rows that it has: no row
    moves.
    """
    x = x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
    if isinstance(rows, NamedSharding):
        spec = PartitionSpec(None, *rows.spec)
        x = jax.lax.with_sharding_constraint(x, NamedSharding(rows.mesh, spec))
    return x


def join_rows(x: jax.Array) -> jax.Array:
    """The inverse of `split_rows`."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])


def encode_in_chunks(
    tower: TowerDef,
    params: dict[str, Any],
    tokens: jax.Array,
    segments: jax.Array,
    keys: jax.Array | None,
    rows: Sharding | None,
    *,
    chunks: int,
    texts_per_row: int = 0,
    beginnings: jax.Array | None = None,
) -> jax.Array:
    """`tower.apply`, in chunks.

    Args:
        tokens, segments, keys, rows, texts_per_row, beginnings: as for `TowerDef.apply`.
        chunks: as for `in_chunks`.
    """

    def encode(params: dict[str, Any], part: tuple[Any, ...]) -> jax.Array:
        tokens, segments, keys, beginnings = part
        return tower.apply(params, tokens, segments, rows, texts_per_row, keys, beginnings)

    return in_chunks(encode, params, (tokens, segments, keys, beginnings), rows, chunks=chunks)


def in_chunks(
    f: Callable[[Any, Any], jax.Array],
    params: dict[str, Any],
    texts: Any,
    rows: Sharding | None,
    *,
    chunks: int,
) -> jax.Array:
    """`f(params, texts)`, so many rows at a time that there are `chunks` of them. Same numbers,
    same gradients; of the activations only one chunk's are alive, and each chunk is worked on once
    more in the backward pass.

    Args:
        f: (params, texts) → [B, …], each row by itself.
        texts: arrays [B, …], in any structure; B a multiple of `chunks` times the parts that the
            mesh splits a batch into.
        rows: on a mesh, where the rows lie.
    """
    if chunks == 1:
        return f(params, texts)
    chunk = jax.checkpoint(f, prevent_cse=False)
    parts = jax.tree.map(lambda x: split_rows(x, chunks, rows), texts)
    _, vectors = jax.lax.scan(lambda _, part: (None, chunk(params, part)), None, parts)
    return join_rows(vectors)
