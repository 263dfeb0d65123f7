"""How sure a mean over queries is: bootstrap intervals, paired randomisation tests, Holm.

The queries are the sample; documents, judgements and training are taken as given. Everything is
seeded and works in blocks, so that memory is a block's and not resamples × queries.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

RESAMPLES = 2000
FLIPS = 10_000
COVERAGE = 0.95
_BLOCK = 250  # resamples or flips at a time
_TIE = 1e-9  # sums that differ by less are equal but for rounding


def resampled_means(values: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Means over queries drawn with replacement (Efron 1979), the same draws for all that follows.

    Args:
        values: [rows, q, metrics] of each query.

    Returns:
        [resamples, rows, metrics].
    """
    q = values.shape[1]
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, _BLOCK):
        drawn = rng.integers(q, size=(min(_BLOCK, resamples - start), q))
        counts = np.array([np.bincount(row, minlength=q) for row in drawn], np.float64)
        means.append(_sums(counts, values) / q)
    return np.concatenate(means)


def interval(resampled: np.ndarray) -> list[float]:
    """[low, high] of the percentile bootstrap, 95 %, from a statistic's resampled values."""
    tail = 100 * (1 - COVERAGE) / 2
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return [float(low), float(high)]


def ratio_interval(above: np.ndarray, below: np.ndarray) -> list[float]:
    """[low, high] of above / below, both from the same resamples; those with below = 0 are left out
    (the ratio is not defined there).
    """
    defined = below > 0
    return interval(above[defined] / below[defined])


def sign_flips(values: np.ndarray, seed: int, flips: int = FLIPS) -> np.ndarray:
    """p of every pair of rows: two-sided paired randomisation test of the difference of means
    (Fisher's; Smucker, Allan and Carterette 2007).

    If two rows are equally good, each query's difference could as well have the other sign. p is
    (1 + sign patterns with a difference at least as large) / (1 + flips): never 0.

    Args:
        values: [rows, q, metrics] of each query.

    Returns:
        [rows, rows, metrics], symmetric.
    """
    rows, q, metrics = values.shape
    observed = np.abs(_differences(values.sum(axis=1)[None]))[0]
    as_large = np.zeros((rows, rows, metrics), np.int64)
    rng = np.random.default_rng(seed)
    for start in range(0, flips, _BLOCK):
        count = min(_BLOCK, flips - start)
        signs = 2.0 * rng.integers(2, size=(count, q), dtype=np.int8) - 1.0
        as_large += (np.abs(_differences(_sums(signs, values))) >= observed - _TIE).sum(axis=0)
    return (1 + as_large) / (1 + flips)


def _sums(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Weighted sums over queries: [b, q] and [rows, q, metrics] → [b, rows, metrics]."""
    return np.tensordot(weights, values, axes=(1, 1))


def _differences(sums: np.ndarray) -> np.ndarray:
    """[f, rows, metrics] → [f, rows, rows, metrics]."""
    return sums[:, :, None] - sums[:, None]


def holm(p: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down correction: p values of a family, adjusted so that the chance of any
    false rejection in it stays below the level.
    """
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    adjusted = np.minimum(1.0, np.maximum.accumulate(np.asarray(p, np.float64)[order] * factors))
    out = np.empty(len(p))
    out[order] = adjusted
    return out.tolist()


def compare_rows(
    values: np.ndarray, names: Sequence[str], metrics: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    """Every row against every earlier one, for each metric; Holm's family is all pairs of rows for
    one metric.

    Args:
        values: [rows, q, metrics] of each query.
        names: of the rows.

    Returns:
        of each {"a", "b", "metric", "difference": a − b, "p", "p_holm"}.
    """
    pairs = [(a, b) for b, a in itertools.combinations(range(len(names)), 2)]
    if not pairs:
        return []
    means, p = values.mean(axis=1), sign_flips(values, seed)
    found = []
    for m, metric in enumerate(metrics):
        corrected = holm([float(p[a, b, m]) for a, b in pairs])
        found += [
            {
                "a": names[a],
                "b": names[b],
                "metric": metric,
                "difference": float(means[a, m] - means[b, m]),
                "p": float(p[a, b, m]),
                "p_holm": p_holm,
            }
            for (a, b), p_holm in zip(pairs, corrected, strict=True)
        ]
    return found


def resampled_over_runs(values: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Means over runs and queries, both drawn with replacement, each apart from the other: what
    another training and other queries would change. Of few runs the bootstrap sees too little of
    the first: take the interval of three as too narrow.

    Args:
        values: [runs, q] of each query.

    Returns:
        [resamples].
    """
    runs, q = values.shape
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, _BLOCK):
        count = min(_BLOCK, resamples - start)
        of_runs = rng.multinomial(runs, np.full(runs, 1 / runs), size=count) / runs
        of_queries = rng.multinomial(q, np.full(q, 1 / q), size=count) / q
        means.append(np.sum(of_runs @ values * of_queries, axis=1))
    return np.concatenate(means)
