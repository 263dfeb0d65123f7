"""The fastest setting of an index that finds enough: recall@k against exact search, and queries per
second, over a grid of settings, for each k that matters.

A deeper search needs more leaves and more candidates, so each k is tuned by itself. Two settings
are chosen at each search (for ScaNN the leaves searched and the candidates scored again), so one
build serves for all their values; others need a build each (`VARIANTS`). Not for what a user will
see: that is what the evaluation measures, on other queries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scalingnote_jax.retrieval.exact import Vectors, exact_search, overlaps
from scalingnote_jax.retrieval.scann.scann_index import DEFAULT_K
from scalingnote_jax.retrieval.scann.scann_library import SOAR_LAMBDA, THRESHOLD

REORDER_FACTORS = (1, 2, 4, 8, 16, 32)  # candidates scored again, as multiples of k
ERRORS = 2  # standard errors that recall must be above its target: other queries come later
LEAVES_STEP = 1.25  # each number of leaves tried is so many times the one before
REPEATS = 2  # timings of a setting, of which the faster counts: others use the machine too
# What needs a build each: AH threshold and SOAR lambda; in the order in which they are tried.
VARIANTS: tuple[tuple[float, float | None], ...] = (
    (THRESHOLD, SOAR_LAMBDA),
    (THRESHOLD, None),
    (0.1, SOAR_LAMBDA),
    (0.3, SOAR_LAMBDA),
)
# (queries [q, D], k, wide, deep) → rows [q, k]; `wide` is the leaves, `deep` the candidates.
Search = Callable[[np.ndarray, int, int, int], np.ndarray]


@dataclass(frozen=True)
class Held:
    """Queries that tuning is done on, with what exact search finds for them.

    Attributes:
        queries: [q, D] float32 unit vectors.
        best: [q, deepest k] rows of the exact best.
        own: [q] the row that a query itself is and that no search is to count, or None.
        origin: "queries" or "documents": what the vectors are.
        depths: each k that is tuned for, the lowest first; none above what there is to be found.
    """

    queries: np.ndarray
    best: np.ndarray
    own: np.ndarray | None
    origin: str
    depths: tuple[int, ...]

    @classmethod
    def sample(
        cls,
        vectors: Vectors,
        queries: np.ndarray | None,
        count: int,
        depths: Sequence[int] = (DEFAULT_K,),
        seed: int = 0,
    ) -> Held:
        """A sample, drawn by the seed, of at most `count` of the `queries` [m, D], or, where there
        are none, of the documents, each left out of its own results.
        """
        rng, n = np.random.default_rng(seed), vectors.shape[0]
        if queries is not None and len(queries):
            ks = tuple(sorted({min(k, n) for k in depths}))
            rows = np.sort(rng.permutation(len(queries))[:count])
            chosen = np.ascontiguousarray(queries[rows], np.float32)
            return cls(chosen, exact_search(chosen, vectors, ks[-1])[1], None, "queries", ks)
        ks = tuple(sorted({min(k, n - 1) for k in depths}))
        own = np.sort(rng.permutation(n)[:count])
        chosen = np.concatenate([vectors[row : row + 1] for row in own.tolist()])
        found = exact_search(chosen, vectors, ks[-1] + 1)[1]
        return cls(chosen, without(found, own), own, "documents", ks)

    def recall(
        self, k: int, search: Callable[[np.ndarray, int], np.ndarray]
    ) -> tuple[float, float, float]:
        """Recall@k of a search (queries, k) → rows, its standard error over the queries, and
        queries per second.
        """
        asked, seconds = (k if self.own is None else k + 1), []
        for _ in range(REPEATS):
            started = time.perf_counter()
            found = search(self.queries, asked)
            seconds.append(time.perf_counter() - started)
        if self.own is not None:
            found = without(found, self.own)
        shares = overlaps(self.best, found, k)
        error = float(shares.std() / np.sqrt(len(shares)))
        return float(shares.mean()), error, len(self.queries) / min(seconds)


def without(rows: np.ndarray, own: np.ndarray) -> np.ndarray:
    """[q, k + 1] rows → [q, k] without each query's own or, if it is not there, the last."""
    kept = rows != own[:, None]
    kept[kept.all(axis=1), -1] = False
    return rows[kept].reshape(len(rows), -1)


@dataclass(frozen=True)
class Point:
    """One point of the recall-latency curve for k.

    Attributes:
        error: standard error of the recall.
    """

    settings: dict[str, Any]
    k: int
    recall: float
    error: float
    queries_per_sec: float
    chosen: bool = False

    def reaches(self, target: float) -> bool:
        """Whether the recall is surely enough: it chose the settings, and so flatters them."""
        return self.recall - ERRORS * self.error >= target

    def as_row(self) -> dict[str, Any]:
        """The row in a manifest's "tuning"."""
        rounded = {"recall": round(self.recall, 4), "recall_error": round(self.error, 4)}
        rounded |= {"queries_per_sec": round(self.queries_per_sec)}
        return {"settings": self.settings, "k": self.k, **rounded, "chosen": self.chosen}


def curve(
    held: Held, k: int, search: Search, wide: list[int], deep: list[int], target: float
) -> list[Point]:
    """For each value of `deep` the smallest of `wide` that reaches the target at k, found by
    bisection (recall grows with either), and what was measured on the way. Settings: {"wide",
    "deep"}.
    """
    points = []
    for candidates in deep:
        low, high = 0, len(wide) - 1
        while low <= high:
            middle = (low + high) // 2
            measured = held.recall(
                k,
                lambda q, k, w=wide[middle], d=candidates: search(q, k, w, d),  # type: ignore[misc]
            )
            points.append(Point({"wide": wide[middle], "deep": candidates}, k, *measured))
            if points[-1].reaches(target):
                high = middle - 1
            else:
                low = middle + 1
    return points


def choose(points: list[Point], target: float) -> Point:
    """The fastest point that reaches the target; if none does, the one of the highest recall."""
    good = [p for p in points if p.reaches(target)]
    if good:
        return max(good, key=lambda p: p.queries_per_sec)
    return max(points, key=lambda p: (p.recall, p.queries_per_sec))


def merit(chosen: Sequence[Point], target: float) -> tuple[bool, float]:
    """By which builds are compared, from their choice for each k: whether all reach the target;
    then the queries per second of one search of each, else the least recall.
    """
    if all(p.reaches(target) for p in chosen):
        return True, 1 / sum(1 / p.queries_per_sec for p in chosen)
    return False, min(p.recall for p in chosen)


def with_choice(points: list[Point], chosen: Sequence[Point]) -> list[dict[str, Any]]:
    """The rows of a manifest's "tuning", the chosen ones marked."""
    return [replace(p, chosen=any(p is c for c in chosen)).as_row() for p in points]


def variants(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The settings with each variant of what needs a build; without a tree there is no SOAR."""
    found: list[dict[str, Any]] = []
    for threshold, soar in VARIANTS:
        variant = settings | {"anisotropic_quantization_threshold": threshold}
        if "soar_lambda" in settings:
            variant["soar_lambda"] = soar
        if variant not in found:
            found.append(variant)
    return found


def steps_to(most: int) -> list[int]:
    """1 to `most`, each about `LEAVES_STEP` times the one before."""
    values, value = [1], 1.0
    while values[-1] < most:
        value = max(value * LEAVES_STEP, values[-1] + 1)
        values.append(min(int(value), most))
    return values
