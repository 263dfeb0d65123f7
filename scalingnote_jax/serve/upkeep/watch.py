"""A sample of live queries, and what it says of the index and of the queries: recall against exact
search, and how far today's queries are from those that came first. For alarms, not for answers.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

import numpy as np

from scalingnote_jax.retrieval.engines.exact_index import ExactIndex
from scalingnote_jax.retrieval.exact import overlap
from scalingnote_jax.retrieval.scann.scann_index import DEFAULT_K
from scalingnote_jax.serve.live import Live
from scalingnote_jax.serve.meters import Meters
from scalingnote_jax.vectors.encoder import unit_rows

KEPT = 256  # queries of the window, and of the reference
CANARIES = 32  # of these, that exact search is asked for
EVERY_SECS = 60.0


class QueryWatch:
    """The queries of late. Texts are kept in memory only, for the check of what is swapped in."""

    def __init__(self, meters: Meters):
        self._meters, self._lock = meters, threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Begins anew: vectors of another tower are of another space."""
        with self._lock:
            self._vectors: deque[np.ndarray] = deque(maxlen=KEPT)
            self._reference: list[np.ndarray] = []
            if not hasattr(self, "_texts"):
                self._texts: deque[str] = deque(maxlen=KEPT)

    def saw(self, texts: Sequence[str], vectors: np.ndarray, best: Sequence[float]) -> None:
        """Queries [n, D] that were answered, and the score of each one's first document."""
        with self._lock:
            self._vectors.extend(vectors)
            self._texts.extend(text for text in texts if text)
            self._reference += list(vectors[: max(0, KEPT - len(self._reference))])
        for score in best:
            self._meters.top_score.observe(score)

    def texts(self) -> list[str]:
        """The newest queries, at most `CANARIES`."""
        with self._lock:
            return list(self._texts)[-CANARIES:]

    def measure(self, live: Live) -> None:
        """Sets the gauges."""
        with self._lock:
            recent, reference = list(self._vectors), list(self._reference)
        if not recent:
            return
        sample = np.stack(recent[-CANARIES:])
        self._meters.canary_recall.set(canary_recall(live, sample))
        if len(reference) == KEPT:
            means = unit_rows(np.stack([np.mean(recent, 0), np.mean(reference, 0)]))
            self._meters.drift.set(float(1 - means[0] @ means[1]))


def canary_recall(live: Live, queries: np.ndarray) -> float:
    """The share of the exact best 10 that the index finds. `queries`: [q, D] unit vectors."""
    k = min(DEFAULT_K, live.size)
    exact = ExactIndex({}, live.vectors).search(queries, k)[1]
    return float(overlap(exact, live.searcher.index.search(queries, k)[1], k))
