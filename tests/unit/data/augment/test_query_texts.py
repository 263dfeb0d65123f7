"""Which texts stage 2 learns: sources, noise, shares of sources, and none that is held out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from scalingnote_jax.config import Config, DistillConfig, replace
from scalingnote_jax.config.rules.training_rules import check_query_sources
from scalingnote_jax.config.validate import validate
from scalingnote_jax.data.augment.perturb import perturb
from scalingnote_jax.data.augment.query_texts import epoch_rows, noise_seed, query_texts
from scalingnote_jax.data.batches import TextSampler
from scalingnote_jax.errors import UserError
from scalingnote_jax.text.tokens import TokenTable

SPLITS = {"train": ["q0", "q1", "q2", "q3"], "dev": ["q4", "q5"], "test": ["q6"]}


class Rows(list[Any]):
    """Documents that may be taken by their rows."""

    def take(self, rows: list[int]) -> list[Any]:
        return [self[row] for row in rows]


def of(queries: list[Any], documents: list[Any], qrels: dict[str, Any]) -> Any:
    """What `query_texts` reads of a collection."""
    return SimpleNamespace(
        queries=queries,
        documents=Rows(documents),
        doc_ids=[d.id for d in documents],
        splits=tuple(qrels),
        qrels=qrels.__getitem__,
    )


def collection() -> Any:
    """Seven judged queries and an unjudged one; two documents, one of which holds a test query."""
    names = ["red", "green", "blue", "white", "black", "brown", "pink", "grey"]
    queries = [
        SimpleNamespace(id=f"q{i}", text=f"where is the {c} house") for i, c in enumerate(names)
    ]
    documents = [
        SimpleNamespace(id="d", title="Houses", text="Houses stand. They fall."),
        SimpleNamespace(id="e", title="where is the pink house", text="where is the pink house"),
    ]
    qrels = {split: {q: {"d": 1} for q in ids} for split, ids in SPLITS.items()}
    return of(queries, documents, qrels)


def cfg(**changes: Any) -> DistillConfig:
    return replace(DistillConfig(), **changes)


def test_each_source_owns_its_texts_and_nothing_is_held_out() -> None:
    sources = ("train", "unlabelled", "titles", "sentences")
    texts = query_texts(cfg(queries=sources, sentences_per_document=2), collection(), 0)
    assert texts.learned[4:] == ["where is the grey house", "Houses", "Houses stand.", "They fall."]
    assert texts.owners.tolist() == [0, 0, 0, 0, 1, 2, 3, 3]
    assert texts.dev == ["where is the black house", "where is the brown house"]
    assert not {*texts.dev, "where is the pink house"} & set(texts.learned)


def test_a_held_out_text_is_held_out_in_every_form() -> None:
    forms = [
        "WHERE is the  pink house",
        "where is the pink\u00a0house ",
        "search: Where is the pink house",
    ]
    given = collection()
    given.queries += [SimpleNamespace(id=f"u{i}", text=form) for i, form in enumerate(forms)]
    given.documents.append(SimpleNamespace(id="f", title="Where is the Pink House", text="Here."))
    sources = cfg(queries=("train", "unlabelled", "titles"))
    rest = ["where is the grey house", "Houses"]
    assert query_texts(sources, given, 0).learned[4:] == [rest[0], forms[2], rest[1]]
    assert query_texts(sources, given, 0, ["search: "]).learned[4:] == rest
    given.queries[6].text = "Query:  where is the pink house"  # the test query has a prompt too
    prompts = ["query: ", "search: ", "query: where"]
    assert query_texts(sources, given, 0, prompts[:2]).learned[4:] == rest


def test_noise_is_another_one_than_the_evaluations() -> None:
    noisy = cfg(queries=("train", "noised"), noise=("typos",), noise_strength=1.0)
    texts = query_texts(noisy, collection(), 0)
    clean, noised = texts.learned[:4], texts.learned[4:]
    assert texts.owners.tolist() == [0] * 4 + [1] * 4
    assert query_texts(noisy, collection(), 0).learned == texts.learned
    assert query_texts(noisy, collection(), 1).learned[4:] != noised
    for number, (text, other) in enumerate(zip(clean, noised, strict=True)):
        assert len(other) == len(text)
        assert other not in (text, perturb("typos", text, 1.0, 0, f"q{number}"))
    assert noise_seed(0) != noise_seed(1)
    assert min(noise_seed(0), noise_seed(1)) >= 2**63
    with pytest.raises(
        UserError,
        match=r"--distill\.noise: .*'shouting'.* each one of \('typos'",
    ):
        validate(Config("x", distill=cfg(queries=("train", "noised"), noise=("shouting",))))


def test_what_is_watched_is_not_learned() -> None:
    texts = query_texts(cfg(max_queries=3), collection(), 0)
    assert len(texts.learned) == 3
    assert len(texts.left_out) == 1
    assert texts.probe(1, 0)[0] in texts.dev
    assert texts.probe(0, 0) == []
    assert texts.probe(9, 0) == texts.dev
    assert replace(texts, dev=[]).probe(9, 0) == texts.left_out


def test_sources_have_their_shares_of_an_epoch() -> None:
    # 90 texts of source 0, 10 of source 1; by weights each gives half: 50 of the 90, and 5 times
    # all of the 10.
    owners = np.array([0] * 90 + [1] * 10)
    mixed = cfg(queries=("sentences", "train"), query_weights=(2.0, 2.0))
    rows_of = epoch_rows(owners, mixed, 0)
    assert rows_of is not None
    first, second = rows_of(0), rows_of(1)
    for rows in (first, second):
        counts = np.bincount(rows, minlength=100)
        assert counts[:90].sum() == 50
        assert counts[:90].max() == 1
        assert counts[90:].tolist() == [5] * 10
    assert set(first) != set(second)
    np.testing.assert_array_equal(rows_of(0), first)
    # The rest of a source that comes more often than all of it fits.
    rows_of = epoch_rows(owners, replace(mixed, query_weights=(3.0, 1.0)), 0)
    assert rows_of is not None
    assert sorted(np.bincount(rows_of(0), minlength=100)[90:]) == [2] * 5 + [3] * 5
    assert epoch_rows(owners, cfg(), 0) is None


def test_batches_of_mixed_sources_are_those_rows() -> None:
    table = TokenTable.from_lists([[1] * (1 + i % 3) for i in range(100)])
    owners = np.array([0] * 90 + [1] * 10)
    mixed = cfg(queries=("sentences", "train"), query_weights=(1.0, 1.0))
    rows_of = epoch_rows(owners, mixed, 0)
    assert rows_of is not None
    sampler = TextSampler(table, (4,), 20, 2, 0, epoch_rows=rows_of)
    for epoch in (0, 1):
        seen = np.concatenate([sampler.rows(5 * epoch + i) for i in range(5)])
        np.testing.assert_array_equal(np.sort(seen), np.sort(rows_of(epoch)))


@pytest.mark.parametrize("weights", [(1.0,), (1.0, -1.0), (0.0, 0.0)])
def test_weights_that_are_none(weights: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="a weight of 0 or more for each of train, titles"):
        check_query_sources(cfg(queries=("train", "titles"), query_weights=weights))


def test_a_weight_for_a_source_without_texts() -> None:
    empty = cfg(queries=("train", "titles"), query_weights=(1.0, 1.0))
    with pytest.raises(UserError, match="for 'titles', which gives no text"):
        epoch_rows(np.zeros(4, int), empty, 0)


def hotels() -> Any:
    """Four named hotels and as many documents; three training queries say a name."""
    names = ["Acorn", "Bell Inn", "Crown", "Dove"]
    documents = [
        SimpleNamespace(id=f"d{i}", title=f"{n} (hotel)", text=f"It is {n}. It is quiet. Old.")
        for i, n in enumerate(names)
    ]
    documents.append(SimpleNamespace(id="d4", title="", text="No title here. None."))
    texts = ["is acorn quiet", "wifi at Bell Inn?", "Crown: parking", "a cheap hotel"]
    texts.append("is dove quiet")
    queries = [SimpleNamespace(id=f"q{i}", text=text) for i, text in enumerate(texts)]
    train = {f"q{i}": {f"d{i}": 1} for i in range(3)} | {"q3": {"d1": 1, "d3": 0}}
    return of(queries, documents, {"train": train, "test": {"q4": {"d3": 1}}})


def test_swapped_queries_ask_about_names_of_others_but_are_no_test_queries() -> None:
    given = cfg(queries=("train", "swapped"), swaps_per_query=4)
    texts = query_texts(given, hotels(), 0)
    swapped = [t for t, owner in zip(texts.learned, texts.owners, strict=True) if owner == 1]
    every = {
        form.format(n)
        for form in ("is {} quiet", "wifi at {}?", "{}: parking")
        for n in ("Acorn", "Bell Inn", "Crown", "Dove")
    }
    own = {"wifi at Bell Inn?", "Crown: parking"}  # as training has them
    assert set(swapped) == every - own - {"is Dove quiet"}  # a test query, but for its case
    once = cfg(queries=("train", "swapped"), swaps_per_query=1)
    assert 4 <= len(query_texts(once, hotels(), 0).learned) <= 7


def test_titled_sentences_stand_behind_their_name() -> None:
    given = cfg(queries=("titled",), sentences_per_document=2)
    learned = query_texts(given, hotels(), 0).learned
    assert learned[:2] == ["Acorn It is Acorn.", "Acorn It is quiet."]
    assert learned[-2:] == ["No title here.", "None."]
    assert len(learned) == 10


def test_dev_queries_of_unseen_entities_are_watched_where_there_are_enough() -> None:
    given = hotels()
    dev = {f"v{i}": {f"d{0 if i % 2 else 3}": 1} for i in range(80)}
    queries = [*given.queries, *(SimpleNamespace(id=q, text=f"text of {q}") for q in dev)]
    given = of(queries, given.documents, {"train": given.qrels("train"), "dev": dev})
    watched = query_texts(cfg(queries=("train",)), given, 0).dev
    assert watched == [f"text of v{i}" for i in range(0, 80, 2)]  # of Dove
    few = {q: dev[q] for q in list(dev)[:40]}
    given = of(queries, given.documents, {"train": given.qrels("train"), "dev": few})
    assert len(query_texts(cfg(queries=("train",)), given, 0).dev) == 40
