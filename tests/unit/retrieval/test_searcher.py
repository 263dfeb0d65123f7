"""The searcher: parts that belong together, parts of one's own, what its arguments may be."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalingnote_jax
from scalingnote_jax.cli import main
from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.collection import Collection, StoredRows
from scalingnote_jax.data.sources.base import Query
from scalingnote_jax.errors import UserError
from scalingnote_jax.retrieval.latency import Asked, time_each, time_searcher
from scalingnote_jax.retrieval.scann.scann_index import ScannIndex
from scalingnote_jax.retrieval.searcher import Hit, Model, Searcher
from scalingnote_jax.retrieval.texts import CollectionTexts, texts_of
from scalingnote_jax.retrieval.updates import IndexUpdate
from scalingnote_jax.vectors.store import VectorStore
from scalingnote_jax.workflow.workdir import Workdir

pytest.importorskip("scann")


@pytest.fixture(scope="module")
def searcher(finished: Path) -> Searcher:
    return Searcher.open(finished)


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "work"))


def parts(work: Path) -> tuple[VectorStore, ScannIndex]:
    store = VectorStore.open(work / "embeddings" / "teacher-doc")
    return store, ScannIndex.open(work / "index", store.fingerprint)


def test_texts_that_the_vectors_are_not_of_are_refused(
    copy: Path, tiny_config: Path, beir_folder: Path
) -> None:
    corpus = beir_folder / "corpus.jsonl"
    corpus.write_text(corpus.read_text().replace("about amber", "about ember", 1))
    words = ["data", str(tiny_config), f"--workdir={copy}", f"--data.path={beir_folder}"]
    assert main([*words, "--overwrite"]) == 0
    with pytest.raises(UserError, match=r"teacher-doc: vectors of other documents \(\w{12}\)"):
        Searcher.open(copy)


def test_an_altered_store_is_served_by_its_parts(copy: Path) -> None:
    model = scalingnote_jax.load(copy)
    query = "topic3"
    vector = model.encode_queries(query)  # nothing is nearer
    update = IndexUpdate.open(copy / "embeddings" / "teacher-doc", copy / "index")
    update.upsert(["new"], vector)
    live = Searcher(model, update.index, update, {"new": ("a title", "a text")})
    ((first, second),) = live.search(query, 2)
    assert (first.id, first.title, first.text) == ("new", "a title", "a text")
    assert first.score == pytest.approx(1, abs=1e-5)
    assert (second.title, second.text) == ("", "")  # no text is known of it
    update.save()
    with pytest.raises(UserError, match="vectors that were changed after they were made"):
        Searcher.open(copy)
    store, index = parts(copy)
    saved = Searcher(model, index, store)
    assert [hit.id for hit in saved.search([query], 2)[0]] == [first.id, second.id]
    texts = {"new": {"title": None, "text": "only text"}}
    assert Searcher(model, index, store, texts).search(query, 1)[0][0].text == "only text"


def test_parts_of_different_sizes_are_refused(copy: Path, finished: Path) -> None:
    _, index = parts(finished)
    update = IndexUpdate.open(copy / "embeddings" / "teacher-doc", copy / "index")
    update.delete(["d0-0"])
    with pytest.raises(UserError, match="an index of 40 rows; expected 39, as the store has"):
        Searcher(scalingnote_jax.load(finished), index, update)


def test_one_string_is_one_query(searcher: Searcher) -> None:
    assert searcher.search("topic3", 3) == searcher.search(["topic3"], 3)
    assert len(searcher.search("topic3")) == 1
    np.testing.assert_array_equal(
        searcher.model.encode_queries("topic3"), searcher.model.encode_queries(["topic3"])
    )
    assert searcher.search([]) == []
    assert searcher.model.encode_queries([]).shape == (0, 16)
    assert len(searcher.search(f"topic{i}" for i in range(2))) == 2


def test_documents_in_each_of_their_forms(searcher: Searcher) -> None:
    encode = searcher.model.encode_documents
    np.testing.assert_array_equal(encode("some text"), encode(["some text"]))
    both = [{"title": "t", "text": "some text"}, {"_id": "x", "title": None, "text": "some text"}]
    np.testing.assert_array_equal(encode(both), encode([("t", "some text"), "some text"]))
    np.testing.assert_array_equal(encode(both[0]), encode(both[:1]))


def test_texts_get_the_prompt_of_their_collection(searcher: Searcher) -> None:
    encoder = searcher.model.query_encoder
    data = DataConfig(
        source="beir",
        mixture=("a=/x", "b=/y"),
        query_prompts=("a=amber ",),
        doc_prompts=("b=basin ",),
    )
    model = Model("student", lambda: encoder, lambda: encoder, data)

    def vectors(*texts: Any) -> np.ndarray:
        return encoder.unit(encoder.encode(list(texts)))

    np.testing.assert_array_equal(model.encode_queries("topic3", "a"), vectors("amber topic3"))
    np.testing.assert_array_equal(model.encode_queries("topic3", "b"), vectors("topic3"))
    documents = model.encode_documents([("title", "topic3"), ("title", " ")], "b")
    np.testing.assert_array_equal(documents, vectors(("title", "basin topic3"), ("title", " ")))
    said = "collection: none, and --data.query_prompts differs between them; expected one of a, b"
    with pytest.raises(UserError, match=said):
        Searcher(model, searcher.index, searcher.store).search("topic3")
    found = Searcher(model, searcher.index, searcher.store).search("topic3", 3, "b")
    assert [hit.id for hit in found[0]] == [hit.id for hit in searcher.search("topic3", 3)[0]]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (None, "search: None; expected a list of texts"),
        (["topic3", None], "search: query 1: None; expected a text"),
        ({"topic3": 1}, "search: a value of type dict; expected a list of texts"),
        ({"topic3"}, "search: a value of type set; expected a list of texts"),
        (b"topic3", "search: a value of type bytes; expected a list of texts"),
        ([3], "search: query 0: a value of type int; expected a text"),
        (["a \ud800 b"], r"search: query 0: the character '\ud800', half of a surrogate pair"),
        (["topic3", " "], "search: an empty query"),
    ],
)
def test_what_is_no_query_is_one_line(searcher: Searcher, given: Any, says: str) -> None:
    with pytest.raises(UserError) as error:
        searcher.search(given)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (None, "encode_documents: None; expected a list of texts"),
        ([{"title": "a", "body": "b"}], 'a mapping with title, body; expected "text"'),
        ([{"text": None}], "document 0: None; expected a text"),
        ([("a", "b", "c")], "document 0: a value of type tuple; expected a text or (title, text)"),
        ([("a", None)], "document 0: None; expected a text"),
        ([("\udfff", "b")], r"document 0, title: the character '\udfff', half of"),
    ],
)
def test_what_is_no_document_is_one_line(searcher: Searcher, given: Any, says: str) -> None:
    with pytest.raises(UserError) as error:
        searcher.model.encode_documents(given)
    assert says in str(error.value)


@pytest.mark.parametrize("k", [0, 41, "3", 2.5, True, None])
def test_k_is_a_number_of_documents(searcher: Searcher, k: Any) -> None:
    with pytest.raises(UserError, match="expected 1 to 40 documents"):
        searcher.search("topic3", k)


def test_reprs_are_short_and_printable(searcher: Searcher) -> None:
    hit = Hit("d", 0.51234, "a \x1b[31m title", "word " * 100)
    assert repr(hit).startswith(r"Hit('d', 0.512, 'a \\x1b[31m title: word")
    assert len(repr(hit)) < 90
    assert repr(searcher) == (
        "Searcher(Model(queries by 'student', documents by 'teacher'), 40 documents, brute_force)"
    )


def test_the_command_shows_title_and_text_and_nothing_that_a_terminal_obeys(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = ("T\x1b]0;x\x07", "one\ntwo \u202e three \x9b")
    monkeypatch.setattr(CollectionTexts, "many", lambda self, ids: [evil for _ in ids])
    assert main(["search", str(copy), "topic3 \x1b[2J", "-k", "1"]) == 0
    query, hit = capsys.readouterr().out.splitlines()
    assert query == r"topic3 \x1b[2J"
    assert hit.endswith(r"T\x1b]0;x\x07: one two \u202e three \x9b")
    assert main(["search", str(copy), "a \udcff"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert r"'\udcff', half of a surrogate pair" in line


def test_warming_up_takes_other_texts_and_is_not_counted() -> None:
    asked: list[str] = []
    seconds = time_each(asked.append, ["a", "b"], ["x", "y", "z"])
    assert asked == ["x", "y", "z", "a", "b"]
    assert len(seconds) == 2


def test_what_is_timed_is_the_search_that_answers_users(
    searcher: Searcher, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = Collection.open(Workdir(finished).data)
    queries = [q for q in collection.queries if q.id in collection.qrels("test")]
    asked = Asked.of(queries, collection, 5, seed=1)
    assert len(asked.timed) == 5
    assert asked.k == 10
    assert {q.id for q in asked.timed} != {q.id for q in queries[:5]}  # drawn, not the first ones
    assert not {q.text for q in asked.timed} & {q.text for q in asked.others}
    seen: list[tuple[str, int]] = []
    search = Searcher.search

    def spy(self: Searcher, texts: str, k: int, **more: Any) -> list[list[Hit]]:
        seen.append((texts, k))
        return search(self, texts, k, **more)

    monkeypatch.setattr(Searcher, "search", spy)
    store, index = parts(finished)
    texts = CollectionTexts(collection)
    found = time_searcher(asked, "student", searcher.model.query_encoder, index, store, texts)
    assert 0 < found["query_ms_p50"] <= found["query_ms_p99"]
    assert [text for text, _ in seen] == [q.text for q in (*asked.others, *asked.timed)]
    assert {k for _, k in seen} == {10}


def test_texts_are_read_at_once_and_as_they_are_one_by_one(finished: Path) -> None:
    collection = Collection.open(Workdir(finished).data)
    texts = CollectionTexts(collection)
    ids = ["d7-1", "d0-0", "d7-1", "d19-0"]
    by_id = {d.id: (d.title, d.text) for d in collection.documents}
    assert texts.many(ids) == [by_id[i] for i in ids]
    assert texts["d3-1"] == by_id["d3-1"]
    assert len(texts) == 40
    assert "nobody" not in texts
    assert texts_of(texts, ["d0-0", "nobody"]) == [by_id["d0-0"], ("", "")]


def test_an_answer_is_one_read_of_all_its_documents(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    read = StoredRows._read

    def spy(self: StoredRows, rows: list[int]) -> list[Any]:
        reads.append(len(rows))
        return read(self, rows)

    monkeypatch.setattr(StoredRows, "_read", spy)
    searcher.search(["topic3", "topic4"], 7)
    assert reads == [14]


def test_queries_of_a_split_are_timed_where_there_are_no_others(finished: Path) -> None:
    collection = Collection.open(Workdir(finished).data)
    asked = Asked.of([Query(q.id, q.text) for q in collection.queries], collection, 10_000, 0)
    assert len(asked.timed) == 60
    assert asked.others == []
