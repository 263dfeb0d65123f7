"""Batches: a function of (seed, step), the same on any number of processes, with true labels."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from pair_batches import pair_batches

from scalingnote_jax.data.batches import PairSampler, TextSampler, iterate
from scalingnote_jax.data.order import Draw, EpochPlans, draw, epoch_order, keyed
from scalingnote_jax.errors import UserError
from scalingnote_jax.text.tokens import TokenTable

N_QUERIES, N_DOCS, B = 150, 400, 16
Q_BUCKETS, D_BUCKETS = (4, 8), (8, 16, 32, 64)


@dataclass
class FakeCollection:
    """What a sampler needs of a collection."""

    doc_ids: list[str]
    query_ids: list[str]
    doc_groups: np.ndarray
    query_groups: np.ndarray
    judged: dict[str, dict[str, int]]

    @property
    def doc_text_groups(self) -> np.ndarray:
        return len(self.query_ids) + self.doc_groups  # no document has a query's text

    def qrels(self, split: str) -> dict[str, dict[str, int]]:
        assert split == "train"
        return self.judged


def table(rng: np.random.Generator, rows: int, longest: int) -> TokenTable:
    return TokenTable.from_lists([[1] * int(n) for n in rng.integers(1, longest + 1, rows)])


@pytest.fixture(scope="module")
def data() -> tuple[FakeCollection, TokenTable, TokenTable]:
    """Every third query has no judgement; queries 0 and 1 are the same text, and so are the
    documents 2k and 2k + 1 for k < 20. Grades 0 are mixed in.
    """
    rng = np.random.default_rng(0)
    doc_groups = np.arange(N_DOCS)
    doc_groups[1:40:2] = doc_groups[0:40:2]
    query_groups = np.arange(N_QUERIES)
    query_groups[1] = 0
    judged = {}
    for q in range(N_QUERIES):
        if q % 3 == 2:
            continue
        docs = rng.choice(N_DOCS, 1 + q % 4 + 2, replace=False)
        judged[f"q{q}"] = {f"d{d}": int(i <= q % 4) * (1 + q % 3) for i, d in enumerate(docs)}
    collection = FakeCollection(
        [f"d{i}" for i in range(N_DOCS)],
        [f"q{i}" for i in range(N_QUERIES)],
        doc_groups.astype(np.int32),
        query_groups.astype(np.int32),
        judged,
    )
    return collection, table(rng, N_QUERIES, 8), table(rng, N_DOCS, 64)


def sampler(data: Any, **changes: Any) -> PairSampler:
    options: dict[str, Any] = {
        "batch_size": B,
        "negatives_per_query": 3,
        "bucket_window": 4,
        "seed": 0,
    }
    collection, queries, docs = data
    return pair_batches(collection, (queries, docs), (Q_BUCKETS, D_BUCKETS), **(options | changes))


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_shapes_and_types(data: Any) -> None:
    batch = sampler(data).batch(0)
    length = batch["doc_tokens"].shape[-1]
    assert batch["query_tokens"].shape[0] == B
    assert batch["query_tokens"].shape[1] in Q_BUCKETS
    assert length in D_BUCKETS
    assert batch["doc_tokens"].shape == batch["doc_mask"].shape == (B, 4, length)
    assert batch["doc_ids"].shape == (B, 4)
    assert batch["query_ids"].shape == (B,)
    kinds = {name: x.dtype for name, x in batch.items()}
    assert all(kinds[n] == np.bool_ for n in ("query_mask", "doc_mask"))
    assert all(kinds[n] == np.int32 for n in kinds if not n.endswith("mask"))


def test_a_batch_does_not_depend_on_where_the_run_began(data: Any) -> None:
    k = 9  # the second epoch
    from_start = list(iterate(sampler(data), 0, k + 6))
    resumed = list(iterate(sampler(data), k, k + 6))
    assert len(from_start) == 15
    assert len(resumed) == 6
    assert all(same(a, b) for a, b in zip(from_start[k:], resumed, strict=True))
    assert all(same(a, sampler(data).batch(k + i)) for i, a in enumerate(resumed))


def test_another_seed_gives_another_batch(data: Any) -> None:
    (queries, docs), (other_queries, other_docs) = (
        sampler(data, seed=seed).rows(3) for seed in (0, 1)
    )
    assert not np.array_equal(queries, other_queries)
    assert not np.array_equal(docs, other_docs)


@pytest.mark.parametrize("processes", [2, 4])
def test_slices_of_processes_make_the_global_batch(data: Any, processes: int) -> None:
    parts = [sampler(data, index=i, count=processes) for i in range(processes)]
    for step in (0, 5, 7):
        whole = sampler(data).batch(step)
        slices = [part.batch(step) for part in parts]
        together = {name: np.concatenate([s[name] for s in slices]) for name in whole}
        assert same(whole, together), "the same padding, too"
        rows, _ = parts[0].rows(step)
        assert len(set(rows.tolist())) == B, "nobody reads what another reads"


def test_every_query_once_an_epoch(data: Any) -> None:
    pairs = sampler(data)
    assert pairs.num_examples == 100
    assert pairs.steps_per_epoch == 6
    seen = []
    for epoch in range(3):
        rows = [pairs.rows(epoch * 6 + i)[0] for i in range(6)]
        seen.append(np.concatenate(rows).tolist())
        assert len(set(seen[-1])) == 96
        assert all(row % 3 != 2 for row in seen[-1])
    assert seen[0] != seen[1] != seen[2]
    assert len(set(seen[0]) & set(seen[1])) < 96, "not the same four are dropped"


def test_document_0_is_relevant_and_the_others_are_not(data: Any) -> None:
    collection, *_ = data
    pairs = sampler(data)
    drawn: dict[int, set[int]] = {}
    for step in range(150):
        queries, docs = pairs.rows(step)
        batch = pairs.batch(step)
        for q, row, known in zip(queries, docs, batch["positive_ids"], strict=True):
            grades = collection.judged[f"q{q}"]
            assert grades[f"d{row[0]}"] > 0
            drawn.setdefault(int(q), set()).add(int(row[0]))
            groups = collection.doc_groups[row]
            assert not set(groups[1:]) & set(known)
            assert len(set(groups)) == 4, "no document twice"
    several = {q for q in drawn if sum(g > 0 for g in collection.judged[f"q{q}"].values()) > 1}
    assert all(len(drawn[q]) > 1 for q in several), "positives take turns"


def test_known_positives_are_those_of_all_duplicates(data: Any) -> None:
    collection, *_ = data
    pairs = sampler(data)
    positives = {
        q: {
            int(collection.doc_groups[int(d[1:])])
            for twin in range(N_QUERIES)
            if collection.query_groups[twin] == collection.query_groups[q]
            for d, grade in collection.judged.get(f"q{twin}", {}).items()
            if grade > 0
        }
        for q in range(N_QUERIES)
    }
    assert positives[0] == positives[1], "the same question twice"
    for step in range(6):
        queries, _ = pairs.rows(step)
        batch = pairs.batch(step)
        assert batch["query_ids"].tolist() == collection.query_groups[queries].tolist()
        for q, known in zip(queries, batch["positive_ids"], strict=True):
            real = known[known >= 0].tolist()
            assert sorted(real) == sorted(positives[q])
        assert (batch["positive_ids"] == batch["doc_ids"][:, :1]).any(axis=1).all()


def test_tokens_are_those_of_the_rows(data: Any) -> None:
    _, query_table, doc_table = data
    pairs = sampler(data)
    for step in range(12):
        queries, docs = pairs.rows(step)
        batch = pairs.batch(step)
        assert batch["query_mask"].sum(-1).tolist() == query_table.lengths[queries].tolist()
        assert batch["doc_mask"].sum(-1).tolist() == doc_table.lengths[docs].tolist()
        longest = doc_table.lengths[docs].max()
        smaller = [b for b in D_BUCKETS if b < batch["doc_tokens"].shape[-1]]
        assert all(b < longest for b in smaller), "the smallest bucket that holds them"


def padding(pairs: PairSampler) -> float:
    batches = [pairs.batch(step) for step in range(pairs.steps_per_epoch)]
    masks = [b["doc_mask"] for b in batches]
    return 1 - sum(m.sum() for m in masks) / sum(m.size for m in masks)


def test_sorting_in_windows_lowers_padding(data: Any) -> None:
    plain, sorted_ = (
        padding(sampler(data, bucket_window=w, negatives_per_query=0)) for w in (1, 6)
    )
    assert plain > 0.45, "half of the places are padding"
    assert sorted_ < 0.35


def test_shapes_vary_along_the_epoch() -> None:
    sizes = np.arange(640)
    order = epoch_order(sizes, 10, 16, 0, 0)
    means = sizes[order].mean(axis=1).reshape(4, 16)
    for window in means:
        rising = (np.diff(window) > 0).sum()
        assert 3 < rising < 12, "neither rising nor falling"
    assert sorted(order.ravel().tolist()) == list(range(640))


def test_few_documents_are_enough_for_negatives() -> None:
    """Nearly everything is relevant: what is left is found, though rejection would not find it."""
    docs = 300
    collection = FakeCollection(
        [f"d{i}" for i in range(docs)],
        ["q0", "q1"],
        np.arange(docs, dtype=np.int32),
        np.arange(2, dtype=np.int32),
        {q: {f"d{i}": 1 for i in range(docs - 2)} for q in ("q0", "q1")},
    )
    tokens = TokenTable.from_lists([[1]] * docs), TokenTable.from_lists([[1]] * 2)

    def pairs(negatives: int) -> PairSampler:
        sizes = {"batch_size": 2, "negatives_per_query": negatives, "bucket_window": 1}
        return pair_batches(collection, tokens[::-1], ((4,), (4,)), seed=0, **sizes)

    for step in range(5):
        _, rows = pairs(2).rows(step)
        assert all(sorted(row[1:].tolist()) == [298, 299] for row in rows)
    with pytest.raises(UserError, match=r"--train\.negatives_per_query: 3; expected from 0 to 2"):
        pairs(3)


def answered_by(docs: list[int], batch_size: int, negatives: int = 0) -> PairSampler:
    """A query for each of `docs`, which answers it; there are eight documents."""
    ids = [f"q{i}" for i in range(len(docs))]
    collection: Any = FakeCollection(
        [f"d{i}" for i in range(8)],
        ids,
        np.arange(8, dtype=np.int32),
        np.arange(len(docs), dtype=np.int32),
        {q: {f"d{d}": 1} for q, d in zip(ids, docs, strict=True)},
    )
    tokens = TokenTable.from_lists([[1]] * len(docs)), TokenTable.from_lists([[1]] * 8)
    sizes = {"batch_size": batch_size, "negatives_per_query": negatives, "bucket_window": 1}
    return pair_batches(collection, tokens, ((4,), (4,)), seed=0, **sizes)


@pytest.mark.parametrize(("docs", "batch_size"), [([0, 1, 2, 3], 1), ([5, 5, 5, 5], 2)])
def test_an_epoch_without_any_negative_is_refused(docs: list[int], batch_size: int) -> None:
    refused = rf"--train\.batch_size: {batch_size}, and no query of an epoch has a negative"
    with pytest.raises(UserError, match=refused):
        answered_by(docs, batch_size)
    assert answered_by(docs, batch_size, negatives=1).steps_per_epoch > 0


def test_queries_without_a_negative_are_counted_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    pairs = answered_by([0, 0, 0, 0, 0, 1], 2)
    lone = [len({0, 1} & set(pairs.rows(step)[1].ravel().tolist())) < 2 for step in range(3)]
    assert sum(lone) == 2, "one batch of three has both documents"
    assert "4 of 6 queries of the first epoch have no negative in their batch (2 of 3 batches" in (
        capsys.readouterr().err
    )
    answered_by([0, 1, 2, 3, 4, 5], 2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 101}, "--train.batch_size: 101 with 100 examples"),
        ({"batch_size": 0}, "--train.batch_size: 0 with 100 examples"),
        ({"count": 3}, "16 over 3 processes; expected a multiple of 3; set it to 15"),
        ({"bucket_window": 0}, "--train.bucket_window: 0"),
        ({"negatives_per_query": -1}, "--train.negatives_per_query: -1"),
    ],
)
def test_bad_sizes(data: Any, changes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError) as caught:
        sampler(data, **changes)
    assert message in str(caught.value)


def test_texts(data: Any) -> None:
    _, _, tokens = data
    texts = TextSampler(tokens, D_BUCKETS, 32, 4, seed=3)
    assert (texts.num_examples, texts.steps_per_epoch) == (400, 12)
    rows = np.concatenate([texts.rows(i) for i in range(12)])
    assert len(set(rows.tolist())) == 384
    batches = list(iterate(texts, 0, 30))
    for step in (0, 11, 12, 29):
        batch = batches[step]
        assert batch["rows"].tolist() == texts.rows(step).tolist()
        assert batch["mask"].sum(-1).tolist() == tokens.lengths[batch["rows"]].tolist()
        halves = [TextSampler(tokens, D_BUCKETS, 32, 4, 3, i, 2).batch(step) for i in (0, 1)]
        assert same(batch, {k: np.concatenate([h[k] for h in halves]) for k in batch})
    with pytest.raises(UserError, match=r"--distill\.batch_size: 401 with 400 examples"):
        TextSampler(tokens, D_BUCKETS, 401, 4, seed=3)


def test_iterate_is_in_order_ahead_and_honest() -> None:
    made: list[int] = []

    class Slow:
        def batch(self, step: int) -> dict[str, np.ndarray]:
            if step == 20:
                raise UserError("step 20 is broken")
            made.append(step)
            return {"step": np.array(step)}

    batches = iterate(Slow(), 4, 30)
    assert int(next(batches)["step"]) == 4
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(made) >= 4, "the next batches are made before they are asked for"
    got = []
    with pytest.raises(UserError, match="step 20 is broken"):
        got.extend(int(b["step"]) for b in batches)
    assert list(iterate(Slow(), 5, 5)) == []


def test_iterate_that_is_left_early_ends_its_threads() -> None:
    class Zeros:
        def batch(self, step: int) -> dict[str, np.ndarray]:
            return {"step": np.array(step)}

    next(iterate(Zeros(), 0, 3))  # Grain's own threads, made once
    before = threading.active_count()
    for _ in range(5):
        batches = iterate(Zeros(), 0, 1000)
        next(batches)
        batches.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before


def test_plans_are_made_once_and_shared_by_threads() -> None:
    made: list[int] = []

    def make(epoch: int) -> int:
        time.sleep(0.01)
        made.append(epoch)
        return epoch * 10

    plans = EpochPlans(make)
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda e=e: answers.append(plans[e])) for e in (0, 1, 0, 1, 0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [0, 0, 0, 10, 10, 10]
    assert plans[1] == 10
    assert sorted(made) == sorted(set(made)), "no epoch twice"


def test_the_next_epoch_is_planned_ahead() -> None:
    made: list[int] = []

    def make(epoch: int) -> int:
        made.append(epoch)
        return epoch

    plans = EpochPlans(make)
    assert (plans[3], plans[4]) == (3, 4)
    assert made[:2] == [3, 4]
    assert plans[9] == 9
    assert plans[3] == 3  # forgotten, and made again
    assert made.count(3) == 2


def test_two_purposes_never_share_a_draw() -> None:
    assert len(Draw) == len(Draw.__members__)


def test_host_cost_of_a_step() -> None:
    rng = np.random.default_rng(1)
    n = 5000
    collection = FakeCollection(
        [f"d{i}" for i in range(n)],
        [f"q{i}" for i in range(n)],
        np.arange(n, dtype=np.int32),
        np.arange(n, dtype=np.int32),
        {f"q{i}": {f"d{i}": 1} for i in range(n)},
    )
    pairs = pair_batches(
        collection,
        (table(rng, n, 32), table(rng, n, 64)),
        ((16, 32), (16, 32, 64)),
        batch_size=64,
        negatives_per_query=0,
        bucket_window=16,
        seed=0,
    )
    pairs.batch(0)
    start = time.thread_time()
    for step in range(50):
        pairs.batch(step)
    assert (time.thread_time() - start) / 50 < 0.002


def test_draws_are_frozen() -> None:
    """The order of the data outlives versions: a resumed run goes on with these numbers."""
    assert keyed(0).item() == 0xE220A8397B1DCDAF  # the first output of SplitMix64 for seed 0
    assert draw(100, 0, 0, Draw.POSITIVE, np.arange(5)).tolist() == [21, 96, 46, 15, 13]
    order = epoch_order(np.zeros(10), 5, 1, seed=0, epoch=0)
    assert order.tolist() == [[6, 8, 0, 7, 3], [4, 9, 2, 1, 5]]


def test_draws_are_even() -> None:
    counts = np.bincount(draw(10, 0, 0, Draw.NEGATIVE, np.arange(100_000)), minlength=10)
    assert abs(counts - 10_000).max() < 400  # four standard deviations
    pairs = draw(10, 0, Draw.ORDER, np.arange(1000)) * 10 + draw(10, 1, Draw.ORDER, np.arange(1000))
    assert np.bincount(pairs, minlength=100).max() < 30, "epochs are independent"
