"""BM25: by hand on a few sentences, and against known figures on a real collection."""

from __future__ import annotations

import csv
import json
import math
import os
import random
from pathlib import Path

import pytest

from scalingnote_jax.data.sources.base import Document, Query
from scalingnote_jax.evaluate.metrics import evaluate_run
from scalingnote_jax.retrieval.bm25 import bm25_run, split

SHARED = Path(os.environ.get("SCALINGNOTE_SHARED", Path(__file__).resolve().parents[4] / "shared"))
SCIFACT = SHARED / "data" / "scifact"

DOCS = [
    Document("cat", "Cats", "A cat sleeps on the mat."),
    Document("dog", "", "The dog is running after a ball."),
    Document("run", "Running", "Runners run every morning, they run far."),
]


def ranking(docs: list[Document], text: str, depth: int = 10) -> list[tuple[str, float]]:
    return bm25_run(docs, [Query("q", text)], depth)[0]["q"]


def test_score_by_hand() -> None:
    docs = [Document("a", "", "red red blue"), Document("b", "", "blue green")]
    [(doc, score)] = ranking(docs, "red")
    idf = math.log(1 + (2 - 1 + 0.5) / (1 + 0.5))
    frequency, length, mean_length = 2, 3, 2.5
    norm = 0.9 * (1 - 0.4 + 0.4 * length / mean_length)
    assert doc == "a"
    assert score == pytest.approx(idf * frequency / (frequency + norm), abs=1e-5)


def test_words_are_stemmed_and_the_title_counts() -> None:
    assert [doc for doc, _ in ranking(DOCS, "run")] == ["run", "dog"]
    assert [doc for doc, _ in ranking(DOCS, "CAT")] == ["cat"]
    only_in_title = [Document("a", "Zebra", "an animal"), Document("b", "", "an animal")]
    assert [doc for doc, _ in ranking(only_in_title, "zebras")] == ["a"]


@pytest.mark.parametrize("text", ["", "the of and", "xylophone", "?! …", "a"])
def test_a_query_with_nothing_to_match_has_no_results(text: str) -> None:
    assert ranking(DOCS, text) == []


def test_texts_without_words() -> None:
    assert ranking([Document("a", "", "..."), Document("b", "", "")], "cat") == []
    assert ranking([*DOCS, Document("empty", "", "")], "cat")[0][0] == "cat"


def test_depth_beyond_the_corpus_and_below_the_matches() -> None:
    assert len(ranking(DOCS, "cat dog run", depth=1000)) == 3
    assert len(ranking(DOCS, "cat dog run", depth=2)) == 2


def test_equal_scores_keep_document_order() -> None:
    names = [f"d{i}" for i in range(50)]
    random.Random(0).shuffle(names)
    same = [Document(name, "", "blue whale") for name in names]
    assert [doc for doc, _ in ranking(same, "whale", depth=20)] == names[:20]


def test_chinese_goes_by_bigrams() -> None:
    assert split("劳动合同 and labour 法") == ["劳动", "动合", "合同", "and", "labour", "法"]
    docs = [
        Document("contract", "", "劳动合同应当以书面形式订立。"),
        Document("tax", "", "个人所得税法"),
    ]
    assert [doc for doc, _ in ranking(docs, "劳动合同怎么签?")] == ["contract"]
    assert ranking(docs, "同劳") == []  # the characters are there, the bigram is not


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी भाषा का व्याकरण", ["हिन्दी", "भाषा", "का", "व्याकरण"]),
        ("বাংলা ভাষার ব্যাকরণ।", ["বাংলা", "ভাষার", "ব্যাকরণ"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("שָׁלוֹם עוֹלָם", ["שָׁלוֹם", "עוֹלָם"]),
        ("السَّلامُ عليكم", ["السَّلامُ", "عليكم"]),
        ("re\u0301sume\u0301 cafe\u0301", ["r\u00e9sum\u00e9", "caf\u00e9"]),
        ("Tie\u0302\u0301ng Vie\u0323\u0302t", ["Ti\u1ebfng", "Vi\u1ec7t"]),
        (
            "soft\u00adhyphen \u06a9\u062a\u0627\u0628\u200c\u0647\u0627",
            ["softhyphen", "\u06a9\u062a\u0627\u0628\u0647\u0627"],
        ),
        ("\u0130stanbul".lower(), ["istanbul"]),
        ("a naïve b \u2764\ufe0f c", ["naïve"]),
    ],
)
def test_words_keep_their_marks(text: str, words: list[str]) -> None:
    assert split(text) == words


def test_a_word_of_a_document_finds_it_in_any_form() -> None:
    docs = [Document("d1", "", "दिल्ली में सूखी मिट्टी"), Document("d2", "", "cafe\u0301 au lait")]
    assert [doc for doc, _ in ranking(docs, "मिट्टी")] == ["d1"]
    assert [doc for doc, _ in ranking(docs, "CAF\u00c9")] == ["d2"]
    assert ranking(docs, "मिट") == [], "another word, though it begins alike"


def test_where_no_spaces_part_words_letters_go_by_bigrams() -> None:
    # Thai: ko kai with sara u, ro ruea, ngo ngu; then a word of two letters
    assert split("กรุง ก่อ") == ["กรุ", "รุง", "ก่อ"]
    assert split("ភាសាខ្មែរ។") == ["ភាសា", "សាខ្", "ខ្មែ", "មែរ"]
    assert split("人々の、ｶﾅ") == ["人々", "々の", "ｶﾅ"]
    docs = [Document("th", "", "ภาษาไทยง่ายมาก"), Document("lo", "", "ພາສາລາວ")]
    assert [doc for doc, _ in ranking(docs, "ไทย")] == ["th"]
    assert [doc for doc, _ in ranking(docs, "ລາວ")] == ["lo"]


def test_every_query_has_an_entry_and_the_index_answers_more() -> None:
    queries = [Query(f"q{i}", text) for i, text in enumerate(("cat", "the", "dog"))]
    run, index = bm25_run(DOCS, queries, depth=5)
    assert list(run) == ["q0", "q1", "q2"]
    assert index.search("cat", 5) == run["q0"]
    assert index.search("cat", 1) == run["q0"][:1]


def test_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    ranking(DOCS, "cat")
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not SCIFACT.is_dir(), reason=f"no SciFact in {SCIFACT}")
def test_scifact_figures() -> None:
    with open(SCIFACT / "corpus.jsonl", encoding="utf-8") as file:
        docs = [Document(d["_id"], d["title"], d["text"]) for d in map(json.loads, file)]
    qrels: dict[str, dict[str, int]] = {}
    with open(SCIFACT / "qrels" / "test.tsv", encoding="utf-8") as file:
        for line in csv.DictReader(file, delimiter="\t"):
            qrels.setdefault(line["query-id"], {})[line["corpus-id"]] = int(line["score"])
    with open(SCIFACT / "queries.jsonl", encoding="utf-8") as file:
        queries = [Query(q["_id"], q["text"]) for q in map(json.loads, file) if q["_id"] in qrels]
    run, _ = bm25_run(docs, queries, depth=100)
    means, _ = evaluate_run(qrels, run, ("nDCG@10", "Recall@100"))
    assert means == pytest.approx({"nDCG@10": 0.676, "Recall@100": 0.913}, abs=1e-3)
