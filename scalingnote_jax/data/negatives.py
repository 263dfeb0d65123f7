"""Which documents become the hard negatives of a training query: of a ranking, those in a window of
ranks that are not known to be relevant and do not score too near the relevant ones.

Pure functions of arrays. Not for ranking (`retrieval/mine.py`), nor for which negatives stand in a
batch (`relevance.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scalingnote_jax.config import MineConfig
from scalingnote_jax.data.order import Draw, keyed
from scalingnote_jax.data.relevance import Relevance
from scalingnote_jax.errors import bad_input
from scalingnote_jax.files.npy_files import read_npz

_COLUMNS: dict[str, tuple[type, int]] = {
    "query_rows": (np.int32, 1),
    "doc_rows": (np.int32, 2),
    "scores": (np.float32, 2),
}
_BLOCK = 4096  # queries at a time: a ranked document of a block takes some 50 bytes


@dataclass(frozen=True)
class Negatives:
    """Hard negatives of the training queries, best ranked first.

    Attributes:
        query_rows: int32 [q], rows of the collection: those of `Relevance.query_rows`.
        doc_rows: int32 [q, M], rows of the collection, of M different texts; -1 behind the last.
        scores: float32 [q, M], the ranker's; NaN behind the last, and where it has none.
    """

    query_rows: np.ndarray
    doc_rows: np.ndarray
    scores: np.ndarray

    @classmethod
    def read(cls, path: Path, fix: str) -> Negatives:
        """Of the .npz file that `mine` wrote.

        Raises:
            UserError: it holds something else.
        """
        chosen = cls(**read_npz(path, fix, _COLUMNS))
        shapes = [column.shape for column in (chosen.query_rows, chosen.doc_rows, chosen.scores)]
        rows, wide, scores = shapes
        numbers = chosen.query_rows.min(initial=0) >= 0 and chosen.doc_rows.min(initial=0) >= -1
        if scores != wide or rows != wide[:1] or not numbers:
            given = f"arrays {shapes}" if numbers else "a row number below 0"
            raise bad_input(str(path), given, "rows of queries and documents", fix)
        return chosen


@dataclass(frozen=True)
class Ranking:
    """What a ranker found for the examples of a split, best first.

    Attributes:
        rows: int32 [q, k], documents; -1 behind the last.
        scores: float32 [q, k]; NaN where the ranker has none.
        relevant: float32 [q], the score of the query's best relevant document; None where the
            ranker's scores say nothing about what a negative may score.
        mean: float32 [q], the query's mean score over all documents; None: 0.
    """

    rows: np.ndarray
    scores: np.ndarray
    relevant: np.ndarray | None = None
    mean: np.ndarray | None = None


@dataclass(frozen=True)
class Window:
    """The scores in the windows of all queries, for statistics: flat float32, and of each the
    place of its query, and whether it is low enough.
    """

    scores: np.ndarray
    owners: np.ndarray
    low_enough: np.ndarray


def choose(
    ranking: Ranking, relevance: Relevance, query_ids: Sequence[str], cfg: MineConfig, seed: int
) -> tuple[Negatives, Window]:
    """The negatives of each example: at most `cfg.negatives` of its window, drawn by (seed, query
    id) alone, so that neither the other queries nor their order matter.

    Args:
        ranking: one list for each of `relevance.query_rows`.
        query_ids: of all queries of the collection, by row.
    """
    limits = score_limits(ranking, cfg)
    hashes = np.array([_hash(query_ids[row]) for row in relevance.query_rows], np.uint64)
    docs, scores, windows = [], [], []
    for start in range(0, len(relevance), _BLOCK):
        part = np.arange(start, min(start + _BLOCK, len(relevance)))
        rows, found = _at_least(cfg.negatives, ranking.rows[part], ranking.scores[part])
        ranks = _ranks(rows, relevance, part)
        inside = (ranks >= cfg.first_rank) & (ranks <= cfg.last_rank)
        low = ~(found > limits[part, None])  # true also where there is no score
        keys = keyed(seed, Draw.MINED, hashes[part, None], ranks)
        places = _drawn(inside & low, keys, cfg.negatives)
        docs.append(_taken(rows, places, -1))
        scores.append(_taken(found, places, np.nan))
        owners = np.broadcast_to(part[:, None], inside.shape)
        windows.append((found[inside], owners[inside], low[inside]))
    chosen = Negatives(relevance.query_rows, np.concatenate(docs), np.concatenate(scores))
    return chosen, Window(*map(np.concatenate, zip(*windows, strict=True)))


def rule_values(cfg: MineConfig) -> list[float | None]:
    """All that `choose` reads of the config, for a hash."""
    window = [cfg.first_rank, cfg.last_rank, cfg.negatives]
    return [*window, cfg.absolute_margin, cfg.relative_margin, cfg.max_score]


def score_limits(ranking: Ranking, cfg: MineConfig) -> np.ndarray:
    """[q], what a negative of each query may score at most: with p the score of the best relevant
    document and m the mean score of all, the least of p − absolute_margin, p − relative_margin ·
    |p − m| and max_score.

    NV-Retriever (arXiv 2407.15831) has m = 0. LLM vectors lie in a narrow cone, where all cosines
    are large and a share of p would be more than what tells one document from another.
    """
    relevant, limits = ranking.relevant, np.full(len(ranking.rows), np.inf, np.float32)
    if relevant is None:
        return limits
    mean = 0.0 if ranking.mean is None else ranking.mean
    if cfg.absolute_margin is not None:
        limits = np.minimum(limits, relevant - cfg.absolute_margin)
    if cfg.relative_margin is not None:
        limits = np.minimum(limits, relevant - cfg.relative_margin * np.abs(relevant - mean))
    if cfg.max_score is not None:
        limits = np.minimum(limits, cfg.max_score)
    return limits


def _hash(query_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(query_id.encode(), digest_size=8).digest(), "little")


def _at_least(columns: int, rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and scores [b, k] with empty places behind them, if k is smaller than `columns`."""
    missing = ((0, 0), (0, max(0, columns - rows.shape[1])))
    return (
        np.pad(rows, missing, constant_values=-1),
        np.pad(scores, missing, constant_values=-np.inf),
    )


def _ranks(rows: np.ndarray, relevance: Relevance, examples: np.ndarray) -> np.ndarray:
    """int64 [b, k], ranks from 1 on among the candidates; 0 for what is none: known to be relevant,
    of the text of a document ranked above it, of another collection, or no document.
    """
    groups = relevance.groups(rows)
    order = np.argsort(groups, axis=1, kind="stable")
    ordered = np.take_along_axis(groups, order, axis=1)
    repeats = np.zeros_like(ordered, bool)
    repeats[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    again = np.empty_like(repeats)
    np.put_along_axis(again, order, repeats, axis=1)
    candidates = relevance.is_own(examples, rows) & ~again & ~relevance.is_known(examples, rows)
    return np.where(candidates, np.cumsum(candidates, axis=1), 0)


def _drawn(allowed: np.ndarray, keys: np.ndarray, count: int) -> np.ndarray:
    """int64 [b, count], the allowed places [b, k] with the least keys, ascending; k behind the
    last.
    """
    behind = np.iinfo(np.uint64).max
    places = np.argsort(np.where(allowed, keys, behind), axis=1)[:, :count]
    taken = np.take_along_axis(allowed, places, axis=1)
    return np.sort(np.where(taken, places, allowed.shape[1]), axis=1)


def _taken(values: np.ndarray, places: np.ndarray, empty: float) -> np.ndarray:
    """Values [b, k] at places [b, m]; `empty` where a place is k."""
    behind = np.full((len(values), 1), empty, values.dtype)
    return np.take_along_axis(np.concatenate([values, behind], axis=1), places, axis=1)
