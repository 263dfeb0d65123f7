"""Search by scoring every document: what ANN recall is measured against, over all devices.

The rows are cut over all axes of the mesh; each process reads only those that its own devices hold.
A device scans its rows block by block and keeps the best k, and the devices' best are merged. What
does not fit is loaded part after part. One CPU has a way of its own, with the same results. With
float32 and recall 1 they are exact; `compare` says what is lost otherwise. Not an index: nothing
stays on the devices between two searches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from scalingnote_jax.config import ExactConfig
from scalingnote_jax.errors import bad_input
from scalingnote_jax.retrieval.best import Best
from scalingnote_jax.retrieval.scan import Found, block_scores, scan
from scalingnote_jax.vectors.quantise import quantise

LANES = 128  # columns of a block of scores are a multiple of it: the width of a TPU's registers
EXACT = ExactConfig()
UNIT_TOLERANCE = 1e-3  # of a vector's length: more than the rounding of bfloat16 makes


class Vectors(Protocol):
    """[n, D] float32 of which slices or single rows are read: an array, or
    `VectorStore.on_disk()`.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice | np.ndarray, /) -> np.ndarray: ...


def exact_search(
    queries: np.ndarray,
    vectors: Vectors,
    k: int,
    cfg: ExactConfig = EXACT,
    mesh: Mesh | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best documents of each query, best first; equal scores in order of row.

    Bytes on a device, with R = cfg.device_rows and c the bytes of a number (4, 2 or 1): two loads
    of vectors, 2·R·(D·c + 4), as one is read while the other is scanned; the scores of a block,
    2·query_block·(block_rows + k)·4; the lists to be merged, query_block·k·(devices + 1)·8; and for
    all q queries and their best, q·(D·4 + k·8). On one CPU: the scores of two blocks,
    2·query_block·block_rows·4 (and less than that while one is looked through), two blocks of
    vectors, and for all queries and their best q·(D·4 + k·8).

    Args:
        queries: [q, D] float32.
        vectors: [n, D] float32; only rows that this process's devices hold are read.
        k: documents per query, 1 <= k <= n.
        cfg: storage and sizes.
        mesh: the devices, every process with the same arguments; None for one local device.

    Returns:
        scores [q, k] float32 and rows [q, k] int32, the same on every process.

    Raises:
        UserError: k or an option is out of range, the widths differ, or a query holds NaN.
    """
    check_search(queries, vectors.shape, k)
    if len(queries) == 0:
        return np.empty((0, k), np.float32), np.empty((0, k), np.int32)
    n = vectors.shape[0]
    mesh = mesh or Mesh(np.asarray(jax.local_devices()[:1]), ("data",))
    if cfg.recall_target == 1 and _is_one_cpu(mesh):
        return _search_on_cpu(queries, vectors, k, cfg, mesh.devices.flat[0])
    whole = NamedSharding(mesh, PartitionSpec())
    q_block = _query_block(len(queries), cfg)
    count = -(-len(queries) // q_block)
    asked = _put(_padded(queries, 0, count * q_block).reshape(count, q_block, -1), whole)
    none = np.full((count, q_block, k), -1, np.int32)
    best: Found = (_put(np.full_like(none, -np.inf, np.float32), whole), _put(none, whole))
    loads = _Loads.plan(n, mesh.size, cfg)
    for first_row in range(0, n, loads.rows):
        docs, scales = loads.place(vectors, first_row, mesh, cfg.storage)
        jax.block_until_ready(best)  # or the host would run ahead and fill the devices
        best = scan(best, asked, docs, scales, first_row, n, mesh, cfg.recall_target)
    scores, rows = (np.asarray(x).reshape(-1, k)[: len(queries)] for x in best)
    return scores, rows


def _query_block(queries: int, cfg: ExactConfig) -> int:
    """Queries at once: few shapes to compile."""
    return min(cfg.query_block, 1 << (queries - 1).bit_length())


def _is_one_cpu(mesh: Mesh) -> bool:
    return mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"


def _search_on_cpu(
    queries: np.ndarray, vectors: Vectors, k: int, cfg: ExactConfig, device: jax.Device
) -> tuple[np.ndarray, np.ndarray]:
    """`exact_search` on one CPU: a block is multiplied while the one before is looked through."""
    n, size = vectors.shape[0], _query_block(len(queries), cfg)
    block = math.ceil(n / math.ceil(n / cfg.block_rows))
    asked = {
        i: jax.device_put(_padded(queries, i, size), device) for i in range(0, len(queries), size)
    }
    best = Best(len(queries), k)

    def products() -> Iterator[_Product]:
        for first_row in range(0, n, block):
            stored, scale = quantise(_padded(vectors, first_row, block), cfg.storage)
            docs, scales = jax.device_put((stored, scale), device)
            for first_query, group in asked.items():
                yield block_scores(group, docs, scales), first_query, first_row

    for product, first_query, first_row in _one_ahead(products()):
        scores = np.asarray(product)[: len(queries) - first_query, : n - first_row]
        best.add(scores, first_query, first_row)
    return best.found()


_Product = tuple[jax.Array, int, int]  # the scores of a block, its first query and first row


def _one_ahead(products: Iterator[_Product]) -> Iterator[_Product]:
    """Hands out each when the next has been started."""
    running = next(products)
    for following in products:
        yield running
        running = following
    yield running


def check_search(queries: np.ndarray, store_shape: tuple[int, ...], k: int) -> None:
    """Checks a search of `queries` [q, D] for k documents in a store of shape (n, D).

    Raises:
        UserError: the widths differ, a query holds NaN, or k is out of range.
    """
    n, dim = store_shape
    assert queries.ndim == 2, queries.shape
    if queries.shape[1] != dim:
        raise bad_input(
            "queries",
            f"vectors of {queries.shape[1]} numbers",
            f"{dim}, as the documents' have",
            "take towers of one teacher, and one encode.dim",
        )
    check_finite(queries, "queries")
    if not 1 <= k <= n:
        raise bad_input("k", str(k), f"1 to {n}, the number of documents", "ask for fewer")


def check_finite(vectors: np.ndarray, where: str) -> None:
    """Refuses vectors [n, D] with NaN or infinity, which any search would rank at random.

    Raises:
        UserError: names the first row.
    """
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise bad_input(
            where,
            f"vector {int(np.argmin(finite))} holds NaN or infinity",
            "finite numbers",
            "check the tower that made it",
        )


def check_unit(vectors: np.ndarray, where: str) -> None:
    """Refuses vectors [n, D] that are not of length 1: their scores would be no cosines, and an
    index would rank them by their lengths.

    Raises:
        UserError: names the first row.
    """
    lengths = np.linalg.norm(vectors, axis=1)
    wrong = np.abs(lengths - 1) > UNIT_TOLERANCE
    if wrong.any():
        row = int(np.argmax(wrong))
        raise bad_input(
            where,
            f"vector {row} has length {lengths[row]:.4g}",
            f"unit vectors (within {UNIT_TOLERANCE:g})",
            "divide each by its length; one of length 0 has no direction",
        )


@dataclass(frozen=True)
class Agreement:
    """How near a search comes to the exact one."""

    overlap: float  # mean share of the exact top k that it finds
    score_error: float  # largest error of a score, over the documents that both find


def compare(
    queries: np.ndarray, vectors: Vectors, k: int, cfg: ExactConfig, mesh: Mesh | None = None
) -> Agreement:
    """The search of `cfg` against exact float32, at these very shapes: an approximate top-k has
    been wrong at single shapes before, so none is to be trusted at another's word.

    Arguments and errors are `exact_search`'s.
    """
    exactly = replace(cfg, storage="float32", recall_target=1.0)
    exact = exact_search(queries, vectors, k, exactly, mesh)
    return agreement(exact, exact_search(queries, vectors, k, cfg, mesh))


def agreement(
    exact: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]
) -> Agreement:
    """Compares two results (scores [q, k], rows [q, k])."""
    error = 0.0
    for right_scores, right, scores, rows in zip(*exact, *other, strict=True):
        _, here, there = np.intersect1d(right, rows, return_indices=True)
        error = max(error, np.abs(right_scores[here] - scores[there]).max(initial=0.0))
    return Agreement(overlap(exact[1], other[1], exact[1].shape[1]), float(error))


def overlap(exact: np.ndarray, other: np.ndarray, k: int) -> float:
    """Mean share of the exact top k that the other top k holds; of the top n, where there are only
    n < k documents. Both [q, ≥ min(k, n)] rows of documents.
    """
    return float(overlaps(exact, other, k).mean())


def overlaps(exact: np.ndarray, other: np.ndarray, k: int) -> np.ndarray:
    """`overlap` of each query: [q] shares."""
    k = min(k, exact.shape[1])
    pairs = zip(exact[:, :k].tolist(), other[:, :k].tolist(), strict=True)
    return np.array([len(set(a) & set(b)) / k for a, b in pairs])


@dataclass(frozen=True)
class _Loads:
    """How n rows are cut: into loads, a load over the devices, there into blocks; all alike."""

    devices: int
    blocks: int
    block: int

    @property
    def rows(self) -> int:
        """Of one load; the last is filled up with rows that are never returned."""
        return self.devices * self.blocks * self.block

    @classmethod
    def plan(cls, n: int, devices: int, cfg: ExactConfig) -> _Loads:
        """Loads of at most about device_rows a device, as equal as can be: little is filled up."""
        loads = math.ceil(n / (devices * cfg.device_rows))
        each = math.ceil(n / (devices * loads))
        blocks = math.ceil(each / cfg.block_rows)
        block = math.ceil(each / blocks)
        return cls(devices, blocks, math.ceil(block / LANES) * LANES if block > LANES else block)

    def place(
        self, vectors: Vectors, first_row: int, mesh: Mesh, storage: str
    ) -> tuple[jax.Array, jax.Array | None]:
        """The load that starts at `first_row`, on the devices: [devices·blocks, block, D], and for
        int8 the scale of each row, [devices·blocks, block].
        """
        split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        shape = (self.devices * self.blocks, self.block, vectors.shape[1])
        docs, scales = [], []
        for device, index in split.addressable_devices_indices_map(shape).items():
            assert index is not None
            start = first_row + (index[0].start or 0) * self.block
            rows = _padded(vectors, start, self.blocks * self.block)
            stored, scale = quantise(rows, storage)
            docs.append(jax.device_put(stored.reshape(self.blocks, *shape[1:]), device))
            if scale is not None:
                scales.append(jax.device_put(scale.reshape(self.blocks, self.block), device))
        join = jax.make_array_from_single_device_arrays
        return join(shape, split, docs), join(shape[:2], split, scales) if scales else None


def _padded(matrix: Vectors, start: int, rows: int) -> np.ndarray:
    """Rows `start` onwards, with zero rows below up to `rows`."""
    part = np.asarray(matrix[start : start + rows], np.float32)
    return np.pad(part, ((0, rows - len(part)), (0, 0))) if len(part) < rows else part


def _put(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A global array of which each process has the whole copy on its host."""
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
