"""Two rankings of the same documents made into one: reciprocal rank fusion (Cormack et al. 2009)
and the convex combination of scores (Bruch et al. 2023), and which of them suits some queries best.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Ranking = list[tuple[str, float]]  # document ids with their scores, best first

DEPTH = 100  # of each ranking, at least
MEASURE = "nDCG@10"  # that tuning looks at


@dataclass(frozen=True)
class Fusion:
    """One way to fuse.

    Attributes:
        kind: "rrf": the sum of 1 / (value + rank). "convex": value × the first ranking's score plus
            (1 − value) × the second's, each brought to 0 to 1 over its ranking.
        value: as said; of a document that a ranking has not, the part is 0.
    """

    kind: Literal["rrf", "convex"]
    value: float

    def fuse(self, dense: Ranking, words: Ranking, k: int) -> Ranking:
        """The best k of both, at most; equal ones in the order of the first ranking."""
        parts = (
            (self._ranks(dense), self._ranks(words))
            if self.kind == "rrf"
            else (_scaled(dense, self.value), _scaled(words, 1 - self.value))
        )
        total: dict[str, float] = {}
        for part in parts:
            for doc_id, score in part:
                total[doc_id] = total.get(doc_id, 0.0) + score
        return sorted(total.items(), key=lambda x: -x[1])[:k]

    def _ranks(self, ranking: Ranking) -> Ranking:
        return [(doc_id, 1 / (self.value + rank)) for rank, (doc_id, _) in enumerate(ranking, 1)]

    def __str__(self) -> str:
        if self.kind == "rrf":
            return f"reciprocal rank fusion, k = {self.value:g}"
        return f"convex combination, {self.value:g} of the tower"


UNTUNED = Fusion("rrf", 60)  # of the paper; good without any judgements
CANDIDATES = (
    UNTUNED,
    *(Fusion("rrf", k) for k in (1, 5, 10, 20, 100)),
    *(Fusion("convex", round(0.05 * i, 2)) for i in range(1, 20)),
)


def _scaled(ranking: Ranking, weight: float) -> Ranking:
    """Scores from 0 (the last) to `weight` (the first)."""
    if not ranking:
        return []
    first, last = ranking[0][1], ranking[-1][1]
    spread = first - last
    return [(i, weight * ((s - last) / spread if spread > 0 else 1.0)) for i, s in ranking]


def _by_rank(ranking: Ranking) -> dict[str, float]:
    """Scores without ties, of which a measure would make an order of its own."""
    return {doc_id: -float(rank) for rank, (doc_id, _) in enumerate(ranking)}


def best_fusion(
    dense: Mapping[str, Ranking], words: Mapping[str, Ranking], qrels: Mapping[str, Mapping]
) -> tuple[Fusion, dict[str, float]]:
    """The candidate with the highest mean `MEASURE` over the queries, the first of equal ones; and
    what each reaches.

    Args:
        dense, words: query id → ranking, of the same queries.
        qrels: query id → document id → grade.
    """
    import ir_measures  # heavy, and no search needs it

    measure = ir_measures.parse_measure(MEASURE)
    reached: dict[Fusion, float] = {}
    for fusion in CANDIDATES:
        run = {q: _by_rank(fusion.fuse(dense[q], words[q], DEPTH)) for q in dense}
        reached[fusion] = ir_measures.calc_aggregate([measure], qrels, run)[measure]
    best = max(reached, key=lambda fusion: reached[fusion])
    return best, {str(fusion): value for fusion, value in reached.items()}
