"""The device side of exact search: the best k of the documents that lie on a mesh, jitted.

How documents come there, and in how many loads: `exact.py`.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

Found = tuple[jax.Array, jax.Array]  # scores [q, k] float32 and rows [q, k] int32, best first


@partial(jax.jit, static_argnames=("mesh", "recall_target"))
def scan(
    best: Found,
    queries: jax.Array,
    docs: jax.Array,
    scales: jax.Array | None,
    first_row: int,
    n: int,
    mesh: Mesh,
    recall_target: float,
) -> Found:
    """The best k of what was found so far and of one load of documents.

    `top_k` prefers the lower position among equals. Earlier loads stand before later ones, lower
    devices before higher ones, earlier blocks before later ones: so ties go to the lower row.

    Args:
        best: of earlier loads, [Q, q, k]; -inf and row -1 where nothing is.
        queries: [Q, q, D] float32: Q blocks, everywhere.
        docs: [devices·blocks, block, D], over all axes of the mesh.
        scales: [devices·blocks, block] float32, what to multiply a document with; or None.
        first_row: the row of docs[0, 0].
        n: rows from here on are filling and never found.
        recall_target: below 1, a block's best are chosen by `approx_max_k` (TPU-KNN, 2206.14286).
    """
    axes = mesh.axis_names
    split, whole = PartitionSpec(axes), PartitionSpec()
    return jax.shard_map(
        partial(_scan_device, axes=axes, devices=mesh.size, recall_target=recall_target),
        mesh=mesh,
        in_specs=(whole, whole, split, split, whole, whole),
        out_specs=whole,
        check_vma=False,  # the check cannot see that what was gathered is alike everywhere
    )(best, queries, docs, scales, jnp.int32(first_row), jnp.int32(n))


def _scan_device(
    best: Found,
    queries: jax.Array,
    docs: jax.Array,
    scales: jax.Array | None,
    first_row: jax.Array,
    n: jax.Array,
    *,
    axes: tuple[str, ...],
    devices: int,
    recall_target: float,
) -> Found:
    """`scan` on one device, with its part of the documents, [blocks, block, D]."""
    blocks, block, _ = docs.shape
    first_row += jax.lax.axis_index(axes) * (blocks * block)
    starts = first_row + block * jnp.arange(blocks, dtype=jnp.int32)
    # An approximate top k may miss more of a block, as few of the load's best are in it.
    choose = partial(_candidates, recall_target=recall_target, total=devices * blocks * block)

    def one_block(
        found: Found, part: tuple[jax.Array, jax.Array, jax.Array | None]
    ) -> tuple[Found, None]:
        start, docs, scales = part
        rows = start + jnp.arange(block, dtype=jnp.int32)

        def ask(asked: tuple[jax.Array, Found]) -> Found:
            queries, found = asked
            scores = _scores(queries, docs, scales)
            scores = jnp.where(scores == 0, 0.0, scores)  # top_k puts -0.0 behind 0.0
            scores = jnp.where(rows < n, scores, -jnp.inf)
            return _merged(found, choose(scores, rows, k=found[0].shape[1]))

        # Documents outside, queries inside: a block of documents is read once for all queries.
        return jax.lax.map(ask, (queries, found)), None

    nothing = (jnp.full_like(best[0], -jnp.inf), jnp.full_like(best[1], -1))
    found, _ = jax.lax.scan(one_block, nothing, (starts, docs, scales))

    def join(both: tuple[Found, Found]) -> Found:
        best, found = both
        return _merged(best, jax.lax.all_gather(found, axes, axis=1, tiled=True))

    return jax.lax.map(join, (best, found))


def _candidates(
    scores: jax.Array, rows: jax.Array, *, k: int, recall_target: float, total: int
) -> Found:
    """What may be among the best k of a block: all of scores [q, block], or by `approx_max_k`."""
    if recall_target == 1:
        return scores, jnp.broadcast_to(rows, scores.shape)
    near, where = jax.lax.approx_max_k(
        scores,
        min(k, len(rows)),
        recall_target=recall_target,
        reduction_input_size_override=total,
    )
    return near, rows[where]


def _scores(queries: jax.Array, docs: jax.Array, scales: jax.Array | None) -> jax.Array:
    """[q, block] float32. In bfloat16 an int8 number is exact, and a TPU multiplies it at once."""
    if docs.dtype == jnp.float32:
        # HIGHEST: accelerators would otherwise multiply in bf16, and this is the exact side.
        return jnp.einsum("qd,nd->qn", queries, docs, precision=jax.lax.Precision.HIGHEST)
    narrow = jnp.bfloat16
    scores = jnp.einsum(
        "qd,nd->qn",
        queries.astype(narrow),
        docs.astype(narrow),
        preferred_element_type=jnp.float32,
    )
    return scores if scales is None else scores * scales


block_scores = jax.jit(_scores)


def _merged(best: Found, more: Found) -> Found:
    """The best k of both, with as many as `best` has; `best` stands in front."""
    scores, rows = (jnp.concatenate(pair, axis=1) for pair in zip(best, more, strict=True))
    top, where = jax.lax.top_k(scores, best[0].shape[1])
    return top, jnp.take_along_axis(rows, where, axis=1)
