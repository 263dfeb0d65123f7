"""Hard negatives: which documents of a ranking they are, by hand; where they stand in a batch."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pair_batches import pair_batches

from scalingnote_jax.config import Config, MineConfig, TrainConfig
from scalingnote_jax.config.validate import validate
from scalingnote_jax.data.batches import PairSampler
from scalingnote_jax.data.negatives import Negatives, Ranking, choose, score_limits
from scalingnote_jax.data.relevance import Relevance
from scalingnote_jax.errors import UserError
from scalingnote_jax.text.tokens import TokenTable

DOCS = 10


@dataclass
class FakeCollection:
    """What mining and a sampler need of a collection."""

    query_ids: list[str]
    judged: dict[str, dict[str, int]]
    doc_groups: np.ndarray
    query_groups: np.ndarray

    @property
    def doc_text_groups(self) -> np.ndarray:
        return 10_000 + self.doc_groups  # no document has a query's text

    @property
    def doc_ids(self) -> list[str]:
        return [f"d{i}" for i in range(len(self.doc_groups))]

    def qrels(self, split: str) -> dict[str, dict[str, int]]:
        assert split == "train"
        return self.judged


def collection(queries: int = 1) -> Any:
    """Every query is answered by d3. d4 has the text of d3, and d7 that of d6."""
    groups = np.arange(DOCS, dtype=np.int32)
    groups[4], groups[7] = 3, 6
    ids = [f"q{i}" for i in range(queries)]
    return FakeCollection(
        ids, {q: {"d3": 1, "d8": 0} for q in ids}, groups, np.arange(queries, dtype=np.int32)
    )


ROWS = [3, 5, 4, 6, 7, 2, 8, 1, 0, 9]
SCORES = [0.90, 0.88, 0.87, 0.80, 0.80, 0.70, 0.60, 0.50, 0.40, 0.30]


def chosen(cfg: MineConfig, relevant: float | None = 0.90, k: int = DOCS) -> list[int]:
    """The hard negatives of the one query under this ranking."""
    ranking = Ranking(
        np.array([ROWS[:k]], np.int32),
        np.array([SCORES[:k]], np.float32),
        None if relevant is None else np.array([relevant], np.float32),
    )
    found, _ = choose(ranking, Relevance(collection(), "train"), ["q0"], cfg, seed=0)
    real = found.doc_rows[0] >= 0
    assert found.doc_rows.shape == (1, cfg.negatives)
    assert np.isnan(found.scores[0]).tolist() == (~real).tolist()
    assert found.scores[0, real].tolist() == [
        np.float32(SCORES[ROWS.index(row)]) for row in found.doc_rows[0, real]
    ]
    return found.doc_rows[0].tolist()


def config(**changes: Any) -> MineConfig:
    """All that is ranked, in order."""
    return MineConfig(**({"negatives": 7, "relative_margin": None} | changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [5, 6, 2, 8, 1, 0, 9]),  # neither d3 nor its double d4, and d6 without its double d7
        ({"first_rank": 2, "last_rank": 5}, [6, 2, 8, 1]),
        ({"last_rank": 1}, [5]),
        ({"relative_margin": 0.05}, [6, 2, 8, 1, 0, 9]),  # at most 0.95 · 0.90 = 0.855
        ({"absolute_margin": 0.25}, [8, 1, 0, 9]),  # at most 0.90 - 0.25 = 0.65
        ({"absolute_margin": 0.0}, [5, 6, 2, 8, 1, 0, 9]),  # at most 0.90
        ({"max_score": 0.55}, [1, 0, 9]),
        ({"max_score": 0.55, "relative_margin": 0.05, "last_rank": 6}, [1, 0]),
        ({"negatives": 12}, [5, 6, 2, 8, 1, 0, 9]),
    ],
)
def test_what_is_chosen_by_hand(changes: dict[str, Any], expected: list[int]) -> None:
    cfg = config(**changes)
    assert chosen(cfg) == expected + [-1] * (cfg.negatives - len(expected))


def test_ranks_count_before_the_scores_decide() -> None:
    """d5 takes rank 1 and is then too near: the window does not move on."""
    assert chosen(config(relative_margin=0.05, last_rank=2, negatives=2)) == [6, -1]


def test_a_ranker_whose_scores_say_nothing_has_the_window_only() -> None:
    cfg = config(relative_margin=0.05, max_score=0.1, last_rank=2, negatives=2)
    assert chosen(cfg, relevant=None) == [5, 6]


def test_a_short_ranking_leaves_places_empty() -> None:
    assert chosen(config(), k=4) == [5, 6, -1, -1, -1, -1, -1]


def test_limits_are_below_the_relevant_score_on_either_side_of_the_mean() -> None:
    cfg = MineConfig(relative_margin=0.1, absolute_margin=None)
    rows = np.zeros((3, 1), np.int32)
    relevant, mean = np.float32([0.5, -0.5, 0.0]), np.float32([0.4, -0.1, 0.0])
    limits = score_limits(Ranking(rows, rows, relevant), cfg)
    np.testing.assert_allclose(limits, [0.45, -0.55, 0.0], atol=1e-6)
    # 0.1 of 0.1, of 0.4, of 0: in a narrow cone the margin is narrow.
    limits = score_limits(Ranking(rows, rows, relevant, mean), cfg)
    np.testing.assert_allclose(limits, [0.49, -0.54, 0.0], atol=1e-6)


def test_a_query_has_the_known_positives_of_its_double() -> None:
    both = FakeCollection(
        ["q0", "q1"],
        {"q0": {"d0": 1}, "q1": {"d1": 1}},
        np.arange(3, dtype=np.int32),
        np.zeros(2, np.int32),
    )
    ranking = Ranking(np.array([[0, 1, 2]] * 2, np.int32), np.ones((2, 3), np.float32))
    relevance = Relevance(both, "train")
    found, _ = choose(ranking, relevance, both.query_ids, config(negatives=1), seed=0)
    assert found.doc_rows.tolist() == [[2], [2]]


def by_id(ids: list[str], seed: int = 0, negatives: int = 3) -> dict[str, list[int]]:
    """The hard negatives of each of some queries; a query's ranking is a function of its id."""
    whole = collection(len(ids))
    whole.query_ids, whole.judged = ids, {q: {"d3": 1} for q in ids}
    rows = [np.random.default_rng(int(q[1:])).permutation(DOCS) for q in ids]
    ranking = Ranking(np.array(rows, np.int32), np.tile(np.float32(SCORES), (len(ids), 1)))
    relevance = Relevance(whole, "train")
    found, _ = choose(ranking, relevance, ids, config(negatives=negatives), seed)
    return dict(zip(ids, found.doc_rows.tolist(), strict=True))


def test_a_draw_depends_on_seed_and_query_id_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"q{i}" for i in range(200)]
    whole = by_id(ids)
    assert by_id(ids[::-1]) == whole, "any order"
    halves = by_id(ids[:90]) | by_id(ids[90:])
    assert halves == whole, "any share of a process"
    monkeypatch.setattr("scalingnote_jax.data.negatives._BLOCK", 7)
    assert by_id(ids) == whole, "any block"
    other = by_id(ids, seed=1)
    assert sum(other[q] == whole[q] for q in ids) < 20, "one in 35 by chance: 3 of 7"
    assert all(len(set(rows)) == 3 for rows in whole.values())


def test_every_place_of_the_window_is_drawn_as_often() -> None:
    """7 candidates, one drawn: 1000 of 7000 each, give or take four standard deviations."""
    ids = [f"q{i}" for i in range(7000)]
    whole = collection(len(ids))
    ranking = Ranking(
        np.tile(np.int32(ROWS), (len(ids), 1)), np.tile(np.float32(SCORES), (len(ids), 1))
    )
    found, _ = choose(
        ranking, Relevance(whole, "train"), whole.query_ids, config(negatives=1), seed=0
    )
    counts = np.bincount(found.doc_rows[:, 0], minlength=DOCS)
    assert counts[[3, 4, 7]].tolist() == [0, 0, 0]
    assert abs(counts[[5, 6, 2, 8, 1, 0, 9]] - 1000).max() < 4 * np.sqrt(7000 * 6 / 49)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": ()}, "--mine.rounds: nothing; expected none, judged or bm25, then"),
        ({"rounds": ("teacher",)}, "--mine.rounds: teacher; expected none, judged or bm25, then"),
        ({"rounds": ("bm25", "none")}, "--mine.rounds: bm25,none"),
        ({"first_rank": 0}, "--mine.first_rank: 0; expected 1 or more"),
        ({"first_rank": 9, "last_rank": 8}, "--mine.last_rank: 9 to 8"),
        ({"negatives": 0}, "--mine.negatives: 0; expected 1 or more"),
        ({"relative_margin": 1.5}, "--mine.relative_margin: 1.5; expected from 0 to 1 or None"),
        ({"absolute_margin": -0.1}, "--mine.absolute_margin: -0.1; expected from 0 to 2 or None"),
        ({"min_found": 2.0}, "--mine.min_found: 2.0"),
    ],
)
def test_what_cannot_be_mined_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        validate(Config("x", mine=MineConfig(**changes), train=TrainConfig(negatives_per_query=1)))
    assert message in str(caught.value)


def test_rounds_that_no_batch_would_show_are_refused() -> None:
    validate(Config("x"))
    with pytest.raises(UserError, match=r"--train\.negatives_per_query: 0 with --mine"):
        validate(Config("x", mine=MineConfig(rounds=("bm25",))))


def test_a_document_with_the_querys_own_text_is_no_negative() -> None:
    """d5 and d7 have the text of q0, and d7 another title than d6."""
    whole = SimpleNamespace(
        doc_ids=[f"d{i}" for i in range(DOCS)],
        query_ids=["q0", "q1"],
        doc_groups=np.arange(DOCS, dtype=np.int32),
        doc_text_groups=np.array([0, 1, 2, 3, 4, 5, 6, 5, 8, 9], np.int32),
        query_groups=np.array([5, 20], np.int32),
        qrels={"train": {"q0": {"d3": 1, "d5": 0}, "q1": {"d8": 1}}}.__getitem__,
    )
    relevance: Any = Relevance(whole, "train")
    assert relevance.known_groups(np.array([0, 1])).tolist() == [[3, 5, 7], [8, -1, -1]]
    assert relevance.width == 3
    ranking = Ranking(np.array([[7, 5, 3, 4], [7, 5, 3, 4]]), np.zeros((2, 4), np.float32))
    found, _ = choose(ranking, relevance, whole.query_ids, config(negatives=4, last_rank=4), seed=0)
    assert [[d for d in row if d >= 0] for row in found.doc_rows] == [[4], [7, 5, 3, 4]]
    drawn = relevance.draw(0, 0, 7)
    assert sorted(drawn[0, 1:].tolist()) == [0, 1, 2, 4, 6, 8, 9]
    relevance.check_negatives(7)
    with pytest.raises(UserError, match="from 0 to 7"):
        relevance.check_negatives(8)


# --- in the batch ---------------------------------------------------------------------------------

QUERIES = 8
MINED = [[5, 6, 2], [0, 1, -1], [9, -1, -1], [-1, -1, -1]] * 2


def sampler(negatives: int, **changes: Any) -> PairSampler:
    """Batches of 4 of 8 queries."""
    whole = collection(QUERIES)
    tokens = [TokenTable.from_lists([[i + 1] for i in range(n)]) for n in (QUERIES, DOCS)]
    rows = np.array(MINED, np.int32)
    mined = Negatives(np.arange(QUERIES, dtype=np.int32), rows, np.zeros(rows.shape, np.float32))
    options: dict[str, Any] = {"bucket_window": 1, "seed": 0, "mined": mined} | changes
    sizes = {"batch_size": 4, "negatives_per_query": negatives}
    return pair_batches(whole, tokens, ((1,), (1,)), **sizes, **options)


def test_mined_documents_come_first_and_random_ones_fill_the_rest() -> None:
    pairs = sampler(3)
    groups = collection().doc_groups
    for step in range(20):
        queries, docs = pairs.rows(step)
        batch = pairs.batch(step)
        for place, query in enumerate(queries):
            mined = {row for row in MINED[query] if row >= 0}
            row = docs[place].tolist()
            assert set(row[1 : 1 + len(mined)]) == mined
            assert len(set(groups[row].tolist())) == 4, "no text twice, and none of the positive's"
            # Labels and texts are by id: the batch's rows are those of these documents.
            assert batch["doc_ids"][place].tolist() == groups[row].tolist()
            assert batch["doc_tokens"][place, :, 0].tolist() == [r + 1 for r in row]
            assert batch["positive_ids"][place].tolist() == [3]


def test_mined_documents_that_the_tower_sees_as_the_positive_are_left_out() -> None:
    """d4 is d3, the positive, to a tower that sees no titles; a ranker that sees them mined it."""
    rows = np.array([[4, 5]] * QUERIES, np.int32)
    mined = Negatives(np.arange(QUERIES, dtype=np.int32), rows, np.zeros(rows.shape, np.float32))
    pairs = sampler(1, mined=mined)
    for step in range(10):
        assert pairs.rows(step)[1][:, 1].tolist() == [5] * 4


def test_more_mined_than_wanted_take_turns() -> None:
    pairs, seen = sampler(1), {query: set() for query in range(QUERIES)}
    for step in range(40):
        for query, row in zip(*pairs.rows(step), strict=True):
            seen[int(query)].add(int(row[1]))
    assert seen[0] == seen[4] == {5, 6, 2}
    assert seen[1] == seen[5] == {0, 1}
    assert seen[2] == seen[6] == {9}
    assert len(seen[3]) > 3, "random ones"


def test_a_batch_with_mined_documents_is_the_same_on_any_number_of_processes() -> None:
    whole = sampler(2)
    parts = [sampler(2, index=i, count=2) for i in range(2)]
    for step in (0, 3, 5):
        slices = [part.batch(step) for part in parts]
        for name, expected in whole.batch(step).items():
            np.testing.assert_array_equal(np.concatenate([s[name] for s in slices]), expected)


def test_without_mined_documents_the_draws_are_what_they_were() -> None:
    none = Negatives(
        np.arange(QUERIES, dtype=np.int32),
        np.full((QUERIES, 3), -1, np.int32),
        np.full((QUERIES, 3), np.nan, np.float32),
    )
    for step in range(6):
        for a, b in zip(
            sampler(2, mined=none).rows(step), sampler(2, mined=None).rows(step), strict=True
        ):
            np.testing.assert_array_equal(a, b)
