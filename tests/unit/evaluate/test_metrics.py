"""Metrics on cases small enough to check by eye."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from scalingnote_jax.errors import UserError
from scalingnote_jax.evaluate.metrics import evaluate_run, strict_scores, write_trec

NAMES = ("Recall@10", "Recall@2", "nDCG@10", "MRR@10", "P@2", "Success@1", "MAP@10")


def ranked(*docs: str) -> list[tuple[str, float]]:
    return [(doc, 1.0 - 0.1 * i) for i, doc in enumerate(docs)]


def test_one_query_by_eye() -> None:
    qrels = {"q": {"a": 1, "b": 1, "x": 0}}
    means, per_query = evaluate_run(qrels, {"q": ranked("x", "a", "c", "b")}, NAMES)
    ideal = 1 + 1 / math.log2(3)
    assert means == pytest.approx(
        {
            "Recall@10": 1.0,
            "Recall@2": 0.5,
            "nDCG@10": (1 / math.log2(3) + 1 / math.log2(5)) / ideal,
            "MRR@10": 0.5,
            "P@2": 0.5,
            "Success@1": 0.0,
            "MAP@10": (1 / 2 + 2 / 4) / 2,
        }
    )
    assert per_query == {"q": pytest.approx(means)}


def test_ndcg_uses_the_grades() -> None:
    qrels = {"q": {"best": 3, "good": 1}}
    right, wrong = ranked("best", "good"), ranked("good", "best")
    ideal = 3 + 1 / math.log2(3)
    assert evaluate_run(qrels, {"q": right}, ["nDCG@10"])[0]["nDCG@10"] == pytest.approx(1.0)
    assert evaluate_run(qrels, {"q": wrong}, ["nDCG@10"])[0]["nDCG@10"] == pytest.approx(
        (1 + 3 / math.log2(3)) / ideal
    )


def test_a_query_without_results_scores_zero_and_counts() -> None:
    qrels = {"hit": {"a": 1}, "absent": {"b": 1}, "empty": {"c": 1}, "missed": {"d": 1}}
    run = {"hit": ranked("a"), "empty": [], "missed": ranked("z"), "unjudged": ranked("a")}
    means, per_query = evaluate_run(qrels, run, ["Recall@10", "MRR@10", "nDCG@10"])
    assert means == {"Recall@10": 0.25, "MRR@10": 0.25, "nDCG@10": 0.25}
    assert list(per_query) == list(qrels)
    for qid in ("absent", "empty", "missed"):
        assert per_query[qid] == {"Recall@10": 0.0, "MRR@10": 0.0, "nDCG@10": 0.0}


def test_a_query_without_a_relevant_document_does_not_count() -> None:
    qrels = {"hit": {"a": 2}, "hopeless": {"b": 0}}
    run = {"hit": ranked("a"), "hopeless": ranked("b")}
    means, per_query = evaluate_run(qrels, run, ["Recall@10", "MRR@10"])
    assert means == {"Recall@10": 1.0, "MRR@10": 1.0}
    assert list(per_query) == ["hit"]


def test_an_empty_run_scores_zero() -> None:
    assert evaluate_run({"q": {"a": 1}}, {}, ["Recall@10"]) == (
        {"Recall@10": 0.0},
        {"q": {"Recall@10": 0.0}},
    )
    assert evaluate_run({}, {}, ["Recall@10"]) == ({"Recall@10": 0.0}, {})


@pytest.mark.parametrize("tied", [("a", "b", "c"), ("c", "b", "a")])
def test_tied_scores_keep_the_order_of_the_run(tied: tuple[str, ...]) -> None:
    run = {"q": [(doc, 0.5) for doc in tied]}
    means, _ = evaluate_run({"q": {tied[1]: 1}}, run, ["MRR@10", "Recall@1", "Recall@2"])
    assert means == {"MRR@10": 0.5, "Recall@1": 0.0, "Recall@2": 1.0}


def test_scores_that_only_float64_tells_apart_keep_their_order() -> None:
    run = {"q": [("b", 0.5 + 2e-12), ("c", 0.5 + 1e-12), ("a", 0.5)]}
    means, _ = evaluate_run({"q": {"a": 1}}, run, ["MRR@10", "Recall@2"])
    assert means == {"MRR@10": pytest.approx(1 / 3), "Recall@2": 0.0}


def test_inputs_are_not_changed() -> None:
    qrels = {"q": {"a": 1, "b": 0}, "none": {"a": 0}}
    run = {"q": [("b", 0.5), ("a", 0.5)], "other": ranked("a")}
    before = copy.deepcopy((qrels, run))
    evaluate_run(qrels, run, NAMES)
    assert (qrels, run) == before


@pytest.mark.parametrize(
    "name",
    ["Recal@10", "Recall", "Recall@0", "Recall@-1", "Recall@x", "recall@10", "NumQ", "", "P@"],
)
def test_unknown_metric_names_the_supported_forms(name: str) -> None:
    with pytest.raises(UserError, match=r"Recall@K, nDCG@K, MRR@K, Success@K, P@K, MAP@K"):
        evaluate_run({"q": {"a": 1}}, {"q": ranked("a")}, [name])


def test_strict_scores_fall_and_stay_close() -> None:
    results = [("a", 1.0), ("b", 1.0), ("c", 1.0), ("d", 0.25), ("e", 0.25), ("f", -3.0)]
    strict = strict_scores(results)
    scores = [score for _, score in strict]
    assert [doc for doc, _ in strict] == list("abcdef")
    assert all(np.float32(a) > np.float32(b) for a, b in itertools.pairwise(scores))
    np.testing.assert_allclose(scores, [score for _, score in results], rtol=1e-6)


def test_strict_scores_refuse_nan_and_twice_the_same_document() -> None:
    with pytest.raises(ValueError, match="NaN"):
        strict_scores([("a", float("nan"))])
    with pytest.raises(ValueError, match="twice"):
        strict_scores([("a", 1.0), ("b", 0.5), ("a", 0.1)])


def test_trec_file(tmp_path: Path) -> None:
    path = tmp_path / "student.trec"
    write_trec(path, {"q1": [("d1", 0.75), ("d2", 0.5), ("d3", 0.5)], "q2": []}, "student")
    assert path.read_text().splitlines() == [
        "q1 Q0 d1 1 0.75 student",
        "q1 Q0 d2 2 0.5 student",
        "q1 Q0 d3 3 0.49999997 student",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["student.trec"]


def test_trec_file_refuses_ids_that_would_shift_the_columns(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the id 'my doc'; expected ids without spaces"):
        write_trec(tmp_path / "x.trec", {"q": [("my doc", 1.0)]}, "student")
    assert list(tmp_path.iterdir()) == []
