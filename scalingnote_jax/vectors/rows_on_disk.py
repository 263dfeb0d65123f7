"""The rows of a store's shards as they lie on disk: float32, bfloat16, or int8 with a scale for
each row; read as float32. Which shards there are and whether they are whole is in `store.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from scalingnote_jax.errors import bad_input
from scalingnote_jax.files.npy_files import read_npy
from scalingnote_jax.vectors.quantise import quantise

STORED_AS: dict[str, type] = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}


class RowsOnDisk:
    """The rows of memory-mapped shards, one after the other.

    Attributes:
        parts: the shards as stored, [rows, D] each.
        shape: (n, D).
    """

    def __init__(self, parts: list[np.ndarray], scales: list[np.ndarray | None] | None = None):
        """`scales`: of the rows [rows] of each shard, None for one that is not int8."""
        self.parts, self._scales = parts, scales or [None] * len(parts)
        self._starts = np.cumsum([0, *map(len, parts)])
        self.shape = (int(self._starts[-1]), parts[0].shape[1])

    @classmethod
    def open(cls, dir: Path, manifest: dict[str, Any], fix: str) -> RowsOnDisk:
        """The shards that a manifest names, memory-mapped.

        Raises:
            UserError: one is not the array that the manifest describes.
        """
        dim, dtype, shards = manifest["dim"], manifest["dtype"], manifest["shards"]
        parts = [_mapped(dir / s["file"], STORED_AS[dtype], (s["rows"], dim), fix) for s in shards]
        if dtype == "bfloat16":
            parts = [part.view(ml_dtypes.bfloat16) for part in parts]
        if dtype != "int8":
            return cls(parts)
        scales: list[np.ndarray | None] = [
            _mapped(dir / scale["file"], np.float32, (shard["rows"],), fix)
            for scale, shard in zip(manifest["scales"], shards, strict=True)
        ]
        return cls(parts, scales)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """The rows of a slice without a step, or as `take`, as a float32 copy in memory."""
        if not isinstance(rows, slice):
            return self.take(rows)
        start, stop, _ = rows.indices(self.shape[0])
        pieces = []
        for first, part, scale in zip(self._starts, self.parts, self._scales, strict=False):
            chosen = slice(max(start - first, 0), max(stop - first, 0))
            pieces.append(restore(part[chosen], None if scale is None else scale[chosen]))
        return np.concatenate(pieces)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """[..., D], rows by number in any order, as a float32 copy in memory."""
        flat = rows.ravel()
        out = np.empty((len(flat), self.shape[1]), np.float32)
        owners = np.searchsorted(self._starts, flat, side="right") - 1
        for i in np.unique(owners):
            here, scale = owners == i, self._scales[i]
            own = flat[here] - self._starts[i]
            out[here] = restore(self.parts[i][own], None if scale is None else scale[own])
        return out.reshape(*rows.shape, self.shape[1])

    def followed_by(self, rows: np.ndarray) -> RowsOnDisk:
        """These rows, and behind them `rows` [m, D] float32, which are in memory."""
        return RowsOnDisk([*self.parts, rows], [*self._scales, None])


def _mapped(path: Path, dtype: type, shape: tuple[int, ...], fix: str) -> np.ndarray:
    array = read_npy(path, fix, dtype, len(shape), mapped=True)
    if array.shape != shape:
        raise bad_input(str(path), f"an array {list(array.shape)}", f"{list(shape)}", fix)
    return array


def store_as(rows: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray | None]:
    """[n, D] float32 → what is written, [n, D] (bfloat16 as the uint16 of its bits, since .npy does
    not know it), and for int8 the scale [n] of each row.
    """
    stored, scale = quantise(rows, dtype)
    return (stored.view(np.uint16) if dtype == "bfloat16" else stored), scale


def restore(stored: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """[n, D] as stored (bfloat16 viewed as such) → float32."""
    rows = stored.astype(np.float32)
    return rows if scale is None else rows * scale[:, None]


def score_errors(rows: np.ndarray, dtype: str) -> np.ndarray:
    """[n], the length of stored − true of each row [n, D]: by no more than that is the dot product
    with any unit query off.
    """
    stored, scale = quantise(rows, dtype)
    return np.linalg.norm(restore(stored, scale) - rows, axis=1)
