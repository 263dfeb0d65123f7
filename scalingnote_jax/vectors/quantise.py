"""Rows of vectors in fewer bits."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

INT8_MAX = 127


def quantise(rows: np.ndarray, storage: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows [n, D] float32 as they are stored; for int8 also the scale [n] float32 of each: a row is
    stored · scale, its largest number ±127.
    """
    if storage != "int8":
        return rows.astype(jnp.dtype(storage), copy=False), None
    scale = np.abs(rows).max(axis=1, initial=0.0) / INT8_MAX
    scale[scale == 0] = 1.0
    return np.rint(rows / scale[:, None]).astype(np.int8), scale
