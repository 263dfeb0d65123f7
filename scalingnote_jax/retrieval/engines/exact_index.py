"""Exact search as an index: every vector is scored, with NumPy, from the vector store itself. Needs
no library, works on any platform, and is fast enough up to some 100,000 vectors.

For many queries on an accelerator there is `retrieval/exact.py`; the two agree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from scalingnote_jax.retrieval.engines.vector_index import check_owner
from scalingnote_jax.retrieval.exact import check_search, check_unit
from scalingnote_jax.vectors.store import VectorStore

QUERIES = 64  # scored at once: 64 × n numbers are held


class ExactIndex:
    """The vectors of a store; memory-mapped where they are one shard of float32."""

    engine = kind = "exact"

    def __init__(self, manifest: dict[str, Any], vectors: np.ndarray):
        """`vectors`: [n, D] float32."""
        self.manifest, self._vectors = manifest, vectors

    @classmethod
    def open(cls, dir: Path, manifest: dict[str, Any], store: VectorStore) -> ExactIndex:
        """
        Raises:
            UserError: it is of another store.
        """
        check_owner(dir, manifest, store.fingerprint)
        return cls(manifest, store.vectors())

    def __len__(self) -> int:
        return len(self._vectors)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `VectorIndex.search`; equal scores in order of row."""
        check_search(queries, self._vectors.shape, k)
        check_unit(queries, "queries")
        scores = np.empty((len(queries), k), np.float32)
        rows = np.empty((len(queries), k), np.int32)
        for start in range(0, len(queries), QUERIES):
            found = np.asarray(queries[start : start + QUERIES], np.float32) @ self._vectors.T
            for i, own in enumerate(found, start):
                rows[i] = _best(own, k)
                scores[i] = own[rows[i]]
        return scores, rows


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Rows of the k highest; of equal ones at the end the first."""
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    rows = np.flatnonzero(scores >= least)
    return rows[np.argsort(-scores[rows], kind="stable")[:k]]
