"""Fusing two rankings, and the hybrid of a workdir."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import scalingnote_jax
from scalingnote_jax.data.sources.base import Document
from scalingnote_jax.errors import UserError
from scalingnote_jax.retrieval.bm25 import Bm25
from scalingnote_jax.retrieval.hybrid.fuse import CANDIDATES, UNTUNED, Fusion, best_fusion

DENSE = [("a", 0.9), ("b", 0.7), ("c", 0.5)]
WORDS = [("c", 12.0), ("d", 2.0)]


def test_reciprocal_ranks_by_hand() -> None:
    fused = Fusion("rrf", 1).fuse(DENSE, WORDS, 10)
    # a: 1/2; b: 1/3; c: 1/4 + 1/2; d: 1/3. b stands before d, as the first ranking has it.
    assert [doc_id for doc_id, _ in fused] == ["c", "a", "b", "d"]
    assert [score for _, score in fused] == pytest.approx([0.75, 0.5, 1 / 3, 1 / 3])


def test_convex_combination_by_hand() -> None:
    fused = dict(Fusion("convex", 0.25).fuse(DENSE, WORDS, 10))
    # The tower's scores become 1, 0.5, 0; BM25's 1, 0
    assert fused == pytest.approx({"a": 0.25, "b": 0.125, "c": 0.75, "d": 0.0})
    assert Fusion("convex", 0.25).fuse(DENSE, WORDS, 1) == [("c", 0.75)]


def test_one_ranking_may_be_empty_or_of_equal_scores() -> None:
    for fusion in CANDIDATES:
        assert [i for i, _ in fusion.fuse(DENSE, [], 2)] == ["a", "b"]
        assert [i for i, _ in fusion.fuse([], WORDS, 2)] == ["c", "d"]
        assert fusion.fuse([], [], 2) == []
    assert dict(Fusion("convex", 0.5).fuse([("a", 0.3)], [("b", 2.0)], 2)) == {"a": 0.5, "b": 0.5}


def test_tuning_takes_the_ranking_that_is_right() -> None:
    dense = {"q1": [("good", 0.9), ("bad", 0.8)], "q2": [("good", 0.9), ("bad", 0.8)]}
    words = {q: [("bad", 9.0), ("good", 1.0)] for q in dense}
    qrels = {q: {"good": 1} for q in dense}
    fusion, reached = best_fusion(dense, words, qrels)
    assert reached[str(fusion)] == 1.0
    assert fusion.fuse(dense["q1"], words["q1"], 1)[0][0] == "good"
    other, _ = best_fusion(words, dense, qrels)
    assert other.fuse(words["q1"], dense["q1"], 1)[0][0] == "good"


TEXTS = ["the red fox", "a red house", "blue sea, red sun", "green grass"]


def documents() -> list[Document]:
    return [Document(f"d{i}", "", text) for i, text in enumerate(TEXTS)]


def test_a_saved_index_answers_as_the_one_that_was_saved(tmp_path: Path) -> None:
    made = Bm25(documents())
    made.save(tmp_path)
    read = Bm25.open(tmp_path, [f"d{i}" for i in range(4)])
    asked = ["red", "red fox", "nothing of it", "sea grass", ""]
    assert read.search_many(asked, 3) == made.search_many(asked, 3)
    assert next(i for i, _ in read.search("red fox", 2)) == "d0"
    assert read.search_many(asked, 3)[2] == []
    assert isinstance(read._index.scores["data"], np.memmap)


def test_an_index_of_no_words_is_saved_too(tmp_path: Path) -> None:
    Bm25([Document("d", "", "?!")]).save(tmp_path)
    assert Bm25.open(tmp_path, ["d"]).search("red", 1) == []


def test_the_best_of_many_are_those_of_all(tmp_path: Path) -> None:
    many = [Document(f"d{i}", "", f"red {'fox ' * (i % 3)}") for i in range(500)]
    index = Bm25(many)
    assert index.search("red fox", 7) == index.search("red fox", 500)[:7]


@pytest.fixture
def work(finished: Path, tmp_path: Path) -> Path:
    pytest.importorskip("scann")
    return Path(shutil.copytree(finished, tmp_path / "work"))


def test_a_workdir_has_its_hybrid_made_once(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["topic3 amber", "topic7"]
    searcher = scalingnote_jax.Searcher.open(work)
    hits = searcher.search(texts, 5, mode="hybrid")
    said = capsys.readouterr().err
    assert "on 5 dev queries" in said
    fusion = json.loads((work / "hybrid" / "fusion.json").read_text())
    assert fusion["tuned_on"] == 5
    assert max(fusion["reached"].values()) == fusion["reached"][str(searcher.hybrid.fusion)]
    stamps = {p: p.stat().st_mtime_ns for p in (work / "hybrid").rglob("*")}
    again = scalingnote_jax.Searcher.open(work)
    assert again.search(texts, 5, mode="hybrid") == hits
    assert {p: p.stat().st_mtime_ns for p in (work / "hybrid").rglob("*")} == stamps

    lexical = again.search(texts, 5, mode="lexical")
    dense = again.search(texts, 40)
    for fused, words, vectors in zip(hits, lexical, dense, strict=True):
        assert words[0].id in ("d3-0", "d3-1", "d7-0", "d7-1")
        known = {hit.id for hit in (*words, *vectors)}
        assert {hit.id for hit in fused} <= known
        assert len(fused) == 5


def test_damaged_words_are_made_again(work: Path) -> None:
    first = scalingnote_jax.Searcher.open(work).search("topic3", 3, mode="lexical")
    path = work / "hybrid" / "words" / "words.json"
    path.write_text(path.read_text()[:50])
    assert scalingnote_jax.Searcher.open(work).search("topic3", 3, mode="lexical") == first
    (work / "hybrid" / "words" / "done.json").write_text("{")
    assert scalingnote_jax.Searcher.open(work).search("topic3", 3, mode="lexical") == first


def test_a_hybrid_that_cannot_be_kept_still_answers(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "hybrid").write_text("a file where the folder would be")
    hits = scalingnote_jax.Searcher.open(work).search("topic3", 3, mode="hybrid")
    assert len(hits[0]) == 3
    assert "cannot be written" in capsys.readouterr().err


def test_a_searcher_of_parts_has_no_words(work: Path) -> None:
    whole = scalingnote_jax.Searcher.open(work)
    parts = scalingnote_jax.Searcher(whole.model, whole.index, whole.store)
    with pytest.raises(UserError, match="mode: a searcher without words"):
        parts.search("topic3", 3, mode="hybrid")


def test_the_untuned_way_is_the_papers() -> None:
    assert (UNTUNED.kind, UNTUNED.value) == ("rrf", 60)


def test_the_evaluation_has_a_row_of_it(work: Path, tiny_config: Path) -> None:
    from scalingnote_jax.cli import main

    words = ["eval", str(tiny_config), f"--workdir={work}", "--overwrite"]
    assert main([*words, "--eval.systems=bm25,student,hybrid"]) == 0
    metrics = json.loads((work / "eval" / "metrics.json").read_text())
    rows = {(row["system"], row["search"]): row for row in metrics["rows"]}
    assert set(rows) == {
        ("bm25", "lexical"), ("student", "exact"), ("student", "scann"),
        ("hybrid", "exact"), ("hybrid", "scann"),
    }  # fmt: skip
    hybrid = rows["hybrid", "exact"]
    assert hybrid["fusion"].startswith(("reciprocal", "convex"))
    assert hybrid["query_tower"] == rows["student", "exact"]["query_tower"]
    assert rows["hybrid", "scann"]["query_ms_p50"] > 0
    assert (work / "eval" / "hybrid-exact.trec").is_file()
    assert "Hybrid" in (work / "report.html").read_text()
