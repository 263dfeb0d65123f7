"""What splits have in common, counted by hand; and which texts are the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from scalingnote_jax.data.overlaps import overlaps, seen_entities
from scalingnote_jax.data.same_texts import Groups, TextHashes
from scalingnote_jax.data.sources.base import Document, Qrels, Query, fold

DOCS = {
    "d0": ("One", "same body"),
    "d1": ("Two", "Same  BODY"),
    "d2": ("one", "same body"),
    "d3": ("", "how far is the moon"),
    "d4": ("", "384,400 km"),
    "d5": ("Far", "what is the distance to the moon"),
}
QUERIES = {
    "q0": "What is the distance to the moon",
    "q1": "how far is the moon",
    "q2": "HOW FAR is\tthe moon",
    "q3": "another",
    "q4": "what is the distance to the moon ",
}


def groups() -> Groups:
    hashes = TextHashes()
    for doc_id, (title, text) in DOCS.items():
        hashes.add_document(Document(doc_id, title, text))
    for query_id, text in QUERIES.items():
        hashes.add_query(Query(query_id, text))
    return hashes.groups()


def said(**qrels: Qrels) -> list[str]:
    return list(overlaps(groups(), list(DOCS), list(QUERIES), qrels))


def test_numbers_of_equal_texts() -> None:
    found = groups()
    assert found.docs.tolist() == [0, 1, 0, 2, 3, 4]
    assert found.doc_texts.tolist() == [0, 0, 0, 1, 2, 3]
    assert found.queries.tolist() == [3, 1, 1, 4, 3]
    empty = TextHashes().groups()
    assert len(empty.docs) == len(empty.doc_texts) == len(empty.queries) == 0


def test_a_title_and_a_text_are_not_run_together() -> None:
    hashes = TextHashes()
    for title, text in (("a b", "c"), ("a", "b c"), ("a b c", ""), ("", "A  B c")):
        hashes.add_document(Document("d", title, text))
    assert hashes.groups().docs.tolist() == [0, 1, 2, 2]


def test_the_forms_of_one_text() -> None:
    for text, same in (
        ("Caf\u00e9", "cafe\u0301"),
        ("STRASSE", "stra\u00dfe"),
        ("\uff21\uff22\uff23\u3000d", "abc D"),
        ("\u0390", "\u03b9\u0308\u0301"),
    ):
        assert fold(text) == fold(same)
    assert fold("caf\u00e9") != fold("cafe")


SHARED = (
    "documents: 3 of 6 share their text with one of another title; a prompt without {title} "
    "cannot tell them apart"
)


def test_queries_and_pairs_of_training_in_the_test_split() -> None:
    train = {"q0": {"d3": 1, "d4": 0}, "q3": {"d0": 1}}
    # q4 is q0 with another answer; q1 and d5 are q0 and d3 the other way round; q2's are new
    test = {"q4": {"d4": 1, "d3": 2}, "q1": {"d5": 1, "d0": 0}, "q2": {"d4": 1}}
    lines = said(train=train, test=test, dev={"q2": {"d4": 1}})
    assert lines == [
        SHARED,
        "test: 1 of 3 queries have the text of a training query, and 2 of 4 relevant pairs have "
        "the texts of a training pair, either way round (but for case and white space): what is "
        "measured on them was learned",
    ]


def test_nothing_is_said_of_what_is_not_there() -> None:
    assert said(test={"q0": {"d5": 1}}) == [SHARED]
    assert said(train={"q3": {"d0": 1}}, test={"q0": {"d3": 1}}) == [SHARED]
    own = said(train={"q0": {"d5": 1, "d4": 1}})
    assert own == [SHARED, "train: 1 of 2 relevant pairs are of a text with itself"]
    assert np.unique(groups().doc_texts).size == 4


def test_seen_entities_by_hand() -> None:
    titles = {"a1": "Acorn (hotel)", "a2": "Acorn (FAQ)", "b1": "Bell (hotel)", "c1": "Crown (FAQ)"}
    titles |= {"e1": "Elm (FAQ)", "n1": "", "n2": "", "x1": "Of No  Name", "x2": "of no name"}
    titles |= {f"d{i}": f"Other {i} words" for i in range(40)}
    texts = {"t1": "is acorn open", "t2": "is bell open", "t3": "crown: wifi?", "t4": "no title"}
    texts |= {"t5": "the plain one", "s1": "acorn?", "s2": "elm?", "s3": "?", "s4": "??", "s5": "!"}
    train = {"t1": {"a1": 1}, "t2": {"b1": 2, "e1": 0}, "t3": {"c1": 1}, "t4": {"n1": 1}}
    train |= {"t5": {"x1": 1}}
    test = {"s1": {"a2": 1}, "s2": {"e1": 1}, "s3": {"n1": 1}, "s4": {"n2": 1, "n1": 0}}
    test |= {"s5": {"x2": 1, "e1": 1}}
    documents = [Document(i, t, "text") for i, t in titles.items()]
    collection: Any = SimpleNamespace(
        splits=("train", "test"),
        doc_ids=list(titles),
        documents=SimpleNamespace(take=lambda rows: [documents[r] for r in rows]),
        queries=[Query(i, t) for i, t in texts.items()],
        qrels={"train": train, "test": test}.__getitem__,
    )
    seen = {"s1": True, "s2": False, "s3": True, "s4": False, "s5": True}
    assert seen_entities(collection, "test") == seen
    collection.splits, collection.qrels = ("test",), {"test": test}.__getitem__
    assert seen_entities(collection, "test") == dict.fromkeys(test, False)
