"""The best k of each query on a CPU, kept by NumPy while blocks of scores come in.

XLA's top_k on a CPU sorts one row at a time on one core, which takes longer than the product. Here
a block is only compared with what each query's k-th best has reached so far: after the first block
few scores pass, and only those are looked at again. On accelerators: `scan.py`.

A score and its row become one whole number, smaller for a higher score and, among equal scores, for
a lower row: NumPy partitions and sorts those many at once, and there are no ties.
"""

from __future__ import annotations

import numpy as np

_NOTHING = np.iinfo(np.int64).max
_CROWD = 256  # more than this and k of a block seldom pass for a query


class Best:
    """The best k so far of q queries, exactly; equal scores in order of row. Holds q · k · 8 bytes,
    and for a block a byte for each of its scores.
    """

    def __init__(self, queries: int, k: int):
        self._k = k
        self._keys = np.full((queries, k), _NOTHING, np.int64)  # the worst of each query is last
        self._limit = np.full(queries, -np.inf, np.float32)  # what is not above it is out
        self._above = np.empty(0, bool)  # of a block; new memory would take longer than comparing

    def add(self, scores: np.ndarray, first_query: int, first_row: int) -> None:
        """Takes in the next block of some queries.

        Args:
            scores: [m, n] float32, finite, of the queries from number `first_query` on.
            first_row: of the block; every row stands behind those of the blocks before.
        """
        group = slice(first_query, first_query + len(scores))
        above = self._compared(scores, self._passing(scores, self._limit[group]))
        query, column, counts = _places(above)
        crowded = np.flatnonzero(counts > self._k + _CROWD)
        if len(crowded):  # documents in order of topic, or many equal scores
            best = _lowest(_keys(scores[crowded], np.arange(scores.shape[1])), self._k)
            above[crowded] = False
            above[crowded[:, None], best & 0xFFFFFFFF] = True
            query, column, counts = _places(above)
        place = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
        more = np.full((len(scores), counts.max()), _NOTHING, np.int64)
        more[query, place] = _keys(scores[query, column], column + first_row)
        keys = _lowest(np.concatenate([self._keys[group], more], axis=1), self._k)
        worst = keys[:, -1]
        self._keys[group] = keys
        self._limit[group] = np.where(worst == _NOTHING, -np.inf, _score(worst))

    def found(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores [q, k] float32 and rows [q, k] int32, best first, of at least k documents."""
        keys = np.sort(self._keys, axis=1)
        return _score(keys), (keys & 0xFFFFFFFF).astype(np.int32)

    def _passing(self, scores: np.ndarray, limit: np.ndarray) -> np.ndarray:
        """[m], above which a score may be among the best. At first what k of the block reach: the
        highest scores of 4 · k groups of columns are partitioned in a fraction of the time of all.
        """
        k, (m, n) = self._k, scores.shape
        if n <= k or np.isfinite(limit).any():
            return limit
        groups = min(4 * k, n)
        each = n // groups
        highest = scores[:, : groups * each].reshape(m, each, groups).max(axis=1)
        reached = np.partition(highest, groups - k, axis=1)[:, groups - k]
        return np.nextafter(reached, np.float32(-np.inf))

    def _compared(self, scores: np.ndarray, limit: np.ndarray) -> np.ndarray:
        if self._above.size < scores.size:
            self._above = np.empty(scores.size, bool)
        above = self._above[: scores.size].reshape(scores.shape)
        return np.greater(scores, limit[:, None], out=above)


def _keys(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """int64: the score's bits, so turned that they count down, and behind them the row's 32."""
    bits = (scores + np.float32(0)).view(np.int32)  # -0.0 becomes 0.0, to which it is equal
    falling = ~np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (falling.astype(np.int64) << 32) | rows


def _score(keys: np.ndarray) -> np.ndarray:
    """float32: the scores of keys."""
    bits = ~(keys >> 32).astype(np.int32)
    return np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).view(np.float32)


def _lowest(keys: np.ndarray, k: int) -> np.ndarray:
    """[q, k], the lowest k of each row of [q, n ≥ k], the highest of them last."""
    return np.partition(keys, k - 1, axis=1)[:, :k]


def _places(above: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns of what is true in [q, n], row by row, and how many are true in each row."""
    query, column = np.divmod(np.flatnonzero(above), above.shape[1])
    return query, column, np.bincount(query, minlength=len(above))
