"""Figures that need scores and judgements but no ranking: AUC-REL, AUC-SAT, contrastive entropy,
and histograms of the scores.

The documents are read by row from wherever they lie: a few thousand at a time, never all.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp
from scipy.stats import rankdata

from scalingnote_jax.retrieval.exact import Vectors

NEGATIVES = 256
DRAWS = 10
POOL = 16_384  # documents that negatives are drawn from, chosen at random from a larger corpus
_PAIRS = 4096  # judged pairs, whose documents are read at once
_QUERIES = 256  # queries scored against the pool at once
_BINS = 40


@dataclass(frozen=True)
class Figures:
    """What `metrics.json` says of one tower's scores.

    Attributes:
        values: "auc_rel", "auc_sat", "contrastive_entropy", "contrastive_entropy_sd"; those that
            the judgements allow.
        histogram: "edges" [bins + 1] and the counts of "positives" and "negatives" [bins]; None
            where there are no negatives.
    """

    values: dict[str, float]
    histogram: dict[str, list[float]] | None


@dataclass(frozen=True)
class Judged:
    """The judged pairs by row number, and the documents drawn as negatives: the same for all
    towers.

    Attributes:
        query, doc, grade: [pairs]; places in the queries, rows of the documents, grades.
        relevant_from: the least grade of a relevant one.
        pool: [P] rows of documents, of which negatives are.
        negatives: [q, DRAWS, NEGATIVES] places in the pool, not judged relevant to their query;
            None where the corpus has too few of them. int16: 50 MB for 10,000 queries.
    """

    query: np.ndarray
    doc: np.ndarray
    grade: np.ndarray
    pool: np.ndarray
    negatives: np.ndarray | None
    relevant_from: int = 1

    @classmethod
    def of(
        cls,
        qrels: Mapping[str, Mapping[str, int]],
        query_ids: Sequence[str],
        doc_ids: Sequence[str],
        seed: int,
        relevant_from: int = 1,
    ) -> Judged:
        """Looks up rows and draws the negatives: a function of (seed, query id) and the corpus."""
        wanted = {doc for query_id in query_ids for doc in qrels[query_id]}
        row_of = {doc: row for row, doc in enumerate(doc_ids) if doc in wanted}
        pairs = [
            (place, row_of[doc], grade)
            for place, query_id in enumerate(query_ids)
            for doc, grade in qrels[query_id].items()
        ]
        query, doc, grade = np.array(pairs, np.int64).reshape(-1, 3).T
        rng = np.random.default_rng(seed)
        pool = np.sort(rng.choice(len(doc_ids), min(POOL, len(doc_ids)), replace=False))
        relevant = [
            {row_of[d] for d, g in qrels[query_id].items() if g >= relevant_from}
            for query_id in query_ids
        ]
        drawn = _draw(query_ids, relevant, pool, seed)
        return cls(query, doc, grade, pool, drawn, relevant_from)

    def figures(self, queries: np.ndarray, documents: Vectors, temperature: float) -> Figures:
        """The figures of one tower.

        Args:
            queries: [q, D] unit vectors, in the order of `query_ids`.
            documents: [n, D] unit vectors.
            temperature: that cosines are divided by in the softmax.
        """
        scores = self._pair_scores(queries, documents)
        values = aucs(scores, self.grade, self.relevant_from)
        if self.negatives is None:
            return Figures(values, None)
        weights, drawn = self._negative_scores(queries, documents, temperature)
        right = self.grade >= self.relevant_from
        positives, owner = scores[right], self.query[right]
        mean, sd = contrastive_entropy(positives / temperature, owner, weights)
        values |= {"contrastive_entropy": mean, "contrastive_entropy_sd": sd}
        return Figures(values, histogram(positives, drawn))

    def _pair_scores(self, queries: np.ndarray, documents: Vectors) -> np.ndarray:
        scores = np.empty(len(self.query), np.float32)
        for start in range(0, len(scores), _PAIRS):
            part = slice(start, start + _PAIRS)
            rows = documents[self.doc[part]]
            scores[part] = np.einsum("pd,pd->p", queries[self.query[part]], rows)
        return scores

    def _negative_scores(
        self, queries: np.ndarray, documents: Vectors, temperature: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """log Σ exp(score / temperature) of each draw [q, DRAWS], and the scores of the first one
        [q, NEGATIVES].
        """
        assert self.negatives is not None
        pool = documents[self.pool]
        weights = np.empty(self.negatives.shape[:2], np.float64)
        first = np.empty((len(queries), NEGATIVES), np.float32)
        for start in range(0, len(queries), _QUERIES):
            part = slice(start, start + _QUERIES)
            places = self.negatives[part]
            of_pool = queries[part] @ pool.T
            flat = np.take_along_axis(of_pool, places.reshape(len(places), -1), axis=1)
            scores = flat.reshape(places.shape)
            first[part] = scores[:, 0]
            weights[part] = logsumexp(scores / temperature, axis=2)
        return weights, first


def aucs(scores: np.ndarray, grades: np.ndarray, relevant_from: int = 1) -> dict[str, float]:
    """AUC-REL and AUC-SAT over all judged pairs together (ScalingNote's offline test).

    The paper gives their names and values, not their definition. Ours: REL parts relevant grades
    (from `relevant_from` on) from lower ones; SAT parts the highest grade, taken for "satisfies",
    from all lower ones. REL is absent without a pair that is not relevant; SAT is absent unless
    there are two relevant grades, as it would repeat REL or say nothing.

    Args:
        scores, grades: [pairs].
    """
    found = {}
    relevant = grades >= relevant_from
    if relevant.any() and not relevant.all():
        found["auc_rel"] = auc(scores, relevant)
    if len(np.unique(grades[relevant])) > 1:
        found["auc_sat"] = auc(scores, grades == grades.max())
    return found


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Chance that a positive has the higher score of a random pair, ties counting half: the
    Mann-Whitney U of ranks.

    Args:
        scores: [pairs].
        positive: bool [pairs], some of each.
    """
    count = int(positive.sum())
    u = rankdata(scores)[positive].sum() - count * (count + 1) / 2
    return float(u / (count * (len(scores) - count)))


def contrastive_entropy(
    positives: np.ndarray, owner: np.ndarray, negatives: np.ndarray
) -> tuple[float, float]:
    """−log softmax of the positive against its query's random negatives, in nats (Scaling Laws for
    Dense Retrieval, arXiv 2403.18684): the mean over a query's positives, then over queries.

    Args:
        positives: [pairs] scores / temperature.
        owner: [pairs] their queries, each query once at least.
        negatives: [q, draws] log Σ exp(score / temperature) of the negatives of a draw.

    Returns:
        the mean over draws, and their standard deviation.
    """
    entropy = np.logaddexp(positives[:, None], negatives[owner]) - positives[:, None]
    queries, place, counts = np.unique(owner, return_inverse=True, return_counts=True)
    sums = np.zeros((len(queries), negatives.shape[1]))
    np.add.at(sums, place, entropy)
    draws = (sums / counts[:, None]).mean(axis=0)
    return float(draws.mean()), float(draws.std(ddof=1))


def histogram(positives: np.ndarray, negatives: np.ndarray) -> dict[str, list[float]]:
    """Counts of both kinds of scores over the same bins."""
    both = np.concatenate([positives, negatives.ravel()])
    edges = np.histogram_bin_edges(both, bins=_BINS)
    counts = {
        name: np.histogram(values, edges)[0].tolist()
        for name, values in (("positives", positives), ("negatives", negatives))
    }
    return {"edges": edges.tolist()} | counts


def _draw(
    query_ids: Sequence[str], relevant: Sequence[set[int]], pool: np.ndarray, seed: int
) -> np.ndarray | None:
    """[q, DRAWS, NEGATIVES] places in the pool; None where it is too small for some query."""
    most = max(map(len, relevant), default=0)
    if len(pool) < NEGATIVES + most:
        return None
    negatives = np.empty((len(query_ids), DRAWS, NEGATIVES), np.int16)
    for place, query_id in enumerate(query_ids):
        rng = np.random.default_rng([seed, zlib.crc32(query_id.encode())])
        taken = _places(pool, relevant[place])
        for one in negatives[place]:
            drawn = rng.choice(len(pool), NEGATIVES + len(taken), replace=False)
            one[:] = drawn[~np.isin(drawn, taken)][:NEGATIVES]
    return negatives


def _places(pool: np.ndarray, rows: set[int]) -> np.ndarray:
    """Where those of the rows that are in the sorted pool stand there."""
    wanted = np.array(sorted(rows), np.int64)
    places = np.minimum(np.searchsorted(pool, wanted), len(pool) - 1)
    return places[pool[places] == wanted]
