"""The best k of each query on a CPU, kept by NumPy while blocks of scores come in.

XLA's top_k on a CPU sorts one row at a time on one core, which takes longer than the product. Here
the highest scores of groups of a block, which XLA finds on all cores, are compared with what each
query's k-th best has reached so far: after the first block few pass, and only their groups are
looked at. On accelerators: `scan.py`.

A score and its row become one whole number, smaller for a higher score and, among equal scores, for
a lower row: NumPy partitions and sorts those many at once, and there are no ties.
"""

from __future__ import annotations

import numpy as np

_NOTHING = np.iinfo(np.int64).max
_CROWD = 256  # more than this and k of a block seldom pass for a query


class Best:
    """The best k so far of q queries, exactly; equal scores in order of row. Holds q · k · 8
    bytes.
    """

    def __init__(self, queries: int, k: int):
        self._k = k
        self._keys = np.full((queries, k), _NOTHING, np.int64)  # the worst of each query is last
        self._limit = np.full(queries, -np.inf, np.float32)  # what is not above it is out

    def add(
        self, scores: np.ndarray, highest: np.ndarray, first_query: int, first_row: int
    ) -> None:
        """Takes in the next block of some queries.

        Args:
            scores: [m, n] float32 of the queries from number `first_query` on; -inf: no document.
            highest: [m, groups], of the columns g, g + groups, g + 2 · groups …
            first_row: of the block; every row stands behind those of the blocks before.
        """
        group = slice(first_query, first_query + len(scores))
        limit = self._passing(scores, highest, self._limit[group])
        query, column, found = _above(scores, highest, limit)
        counts = np.bincount(query, minlength=len(scores))
        most = self._k + _CROWD
        fits = counts[query] <= most
        place = (np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts))[fits]
        more = np.full((len(scores), min(counts.max(), most)), _NOTHING, np.int64)
        more[query[fits], place] = _keys(found[fits], column[fits] + first_row)
        crowded = np.flatnonzero(counts > most)
        if len(crowded):  # documents in order of topic, or many equal scores
            rows = np.arange(scores.shape[1]) + first_row
            more[crowded, : self._k] = _lowest(_keys(scores[crowded], rows), self._k)
        keys = _lowest(np.concatenate([self._keys[group], more], axis=1), self._k)
        worst = keys[:, -1]
        self._keys[group] = keys
        self._limit[group] = np.where(worst == _NOTHING, -np.inf, _score(worst))

    def found(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores [q, k] float32 and rows [q, k] int32, best first, of at least k documents."""
        keys = np.sort(self._keys, axis=1)
        return _score(keys), (keys & 0xFFFFFFFF).astype(np.int32)

    def _passing(self, scores: np.ndarray, highest: np.ndarray, limit: np.ndarray) -> np.ndarray:
        """[m], above which a score may be among the best. At first what k of the block reach: where
        there are groups enough it takes less time to partition their highest scores than all.
        """
        some = highest if highest.shape[1] >= 2 * self._k else scores
        at = some.shape[1] - self._k
        if at <= 0 or np.isfinite(limit).any():
            return limit
        return np.nextafter(np.partition(some, at, axis=1)[:, at], np.float32(-np.inf))


def _above(
    scores: np.ndarray, highest: np.ndarray, limit: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Query, column and score of each score above its query's limit, query by query. Only groups
    whose highest is above are looked at.
    """
    groups = highest.shape[1]
    query, group = np.divmod(np.flatnonzero(highest > limit[:, None]), groups)
    column = group[:, None] + np.arange(0, scores.shape[1], groups)  # [groups found, of a group]
    found = scores[query[:, None], column]
    which = found > limit[query][:, None]
    return np.repeat(query, which.sum(axis=1)), column[which], found[which]


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
