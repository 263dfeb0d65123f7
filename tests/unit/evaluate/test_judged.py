"""AUC, contrastive entropy and histograms against numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest

from scalingnote_jax.evaluate.judged import (
    DRAWS,
    NEGATIVES,
    Judged,
    auc,
    aucs,
    contrastive_entropy,
    histogram,
)


def test_auc_counts_pairs_and_ties_by_half() -> None:
    scores = np.array([0.9, 0.5, 0.5, 0.1])
    positive = np.array([True, True, False, False])
    assert auc(scores, positive) == (1 + 1 + 0.5 + 1) / 4
    assert auc(-scores, positive) == 1 - 3.5 / 4


def test_auc_rel_and_sat_part_at_different_grades() -> None:
    scores, grades = np.array([0.9, 0.6, 0.7, 0.1]), np.array([1, 2, 0, 0])
    assert aucs(scores, grades) == {"auc_rel": 3 / 4, "auc_sat": 1 / 3}


def test_aucs_are_absent_where_the_judgements_do_not_allow_them() -> None:
    scores = np.array([0.9, 0.6, 0.7])
    assert aucs(scores, np.array([1, 1, 1])) == {}
    assert aucs(scores, np.array([1, 1, 0])) == {"auc_rel": 0.5}
    assert set(aucs(scores, np.array([1, 2, 2]))) == {"auc_sat"}


def test_grades_below_the_threshold_are_not_relevant() -> None:
    scores, grades = np.array([0.9, 0.6, 0.7, 0.1]), np.array([1, 2, 3, 0])
    assert aucs(scores, grades, 2) == {"auc_rel": 2 / 4, "auc_sat": 2 / 3}


def test_contrastive_entropy_by_hand() -> None:
    # Query 0: positives e^0 and e^1 against 3; query 1: e^0 against 1.
    positives, owner = np.array([0.0, 1.0, 0.0]), np.array([0, 0, 1])
    negatives = np.log([[3.0, 3.0], [1.0, 1.0]])
    first = (np.log(4) + np.log((np.e + 3) / np.e)) / 2
    mean, sd = contrastive_entropy(positives, owner, negatives)
    assert mean == pytest.approx((first + np.log(2)) / 2)
    assert sd == pytest.approx(0.0, abs=1e-12)
    _, sd = contrastive_entropy(np.zeros(1), np.zeros(1, int), np.log([[1.0, 3.0]]))
    assert sd == pytest.approx((np.log(4) - np.log(2)) / np.sqrt(2))


def test_equal_scores_have_the_entropy_of_a_blind_guess() -> None:
    doc_ids = [f"d{i}" for i in range(400)]
    judged = Judged.of({"q": {"d7": 2, "d8": 1, "d9": 0}}, ["q"], doc_ids, seed=0)
    same = np.ones((400, 1), np.float32)
    found = judged.figures(same[:1], same, temperature=0.05)
    assert found.values == pytest.approx(
        {
            "auc_rel": 0.5,
            "auc_sat": 0.5,
            "contrastive_entropy": np.log(1 + NEGATIVES),
            "contrastive_entropy_sd": 0.0,
        },
        abs=1e-5,
    )


def test_negatives_are_never_judged_relevant_and_depend_on_the_query_alone() -> None:
    doc_ids = [f"d{i}" for i in range(300)]
    qrels = {"a": dict.fromkeys(doc_ids[:30], 1), "b": {"d40": 1, "d41": 0}}
    both = Judged.of(qrels, ["a", "b"], doc_ids, seed=3)
    assert both.negatives is not None
    rows = both.pool[both.negatives]
    assert rows.shape == (2, DRAWS, NEGATIVES)
    assert rows[0].min() >= 30
    assert not (rows[1] == 40).any()
    assert all(len(set(draw)) == NEGATIVES for query in rows for draw in query)
    alone = Judged.of(qrels, ["b"], doc_ids, seed=3)
    assert alone.negatives is not None
    np.testing.assert_array_equal(alone.negatives[0], both.negatives[1])


def test_figures_equal_the_plain_formula() -> None:
    rng = np.random.default_rng(0)
    documents = rng.standard_normal((600, 8)).astype(np.float32)
    queries = rng.standard_normal((3, 8)).astype(np.float32)
    qrels = {f"q{i}": {f"d{5 * i}": 1, f"d{5 * i + 1}": 1} for i in range(3)}
    judged = Judged.of(qrels, list(qrels), [f"d{i}" for i in range(600)], seed=0)
    assert judged.negatives is not None
    scores = queries @ documents.T
    draws = []
    for draw in range(DRAWS):
        each = []
        for q in range(3):
            negatives = np.exp(scores[q, judged.pool[judged.negatives[q, draw]]] / 0.5).sum()
            right = np.exp(scores[q, [5 * q, 5 * q + 1]] / 0.5)
            each.append(-np.log(right / (right + negatives)).mean())
        draws.append(np.mean(each))
    found = judged.figures(queries, documents, 0.5)
    assert found.values["contrastive_entropy"] == pytest.approx(np.mean(draws), abs=1e-5)
    assert found.values["contrastive_entropy_sd"] == pytest.approx(np.std(draws, ddof=1), abs=1e-5)
    assert found.histogram is not None
    assert sum(found.histogram["positives"]) == 6
    assert sum(found.histogram["negatives"]) == 3 * NEGATIVES


def test_a_corpus_of_too_few_negatives_has_no_entropy() -> None:
    judged = Judged.of({"q": {"d0": 1}}, ["q"], [f"d{i}" for i in range(256)], seed=0)
    unit = np.ones((256, 1), np.float32)
    assert judged.figures(unit[:1], unit, 0.05).histogram is None
    assert judged.figures(unit[:1], unit, 0.05).values == {}


def test_histogram_has_the_same_bins_for_both() -> None:
    found = histogram(np.array([1.0, 0.99]), np.array([[0.0, 0.01]]))
    assert (found["edges"][0], found["edges"][-1]) == (0.0, 1.0)
    assert (found["positives"][-1], found["negatives"][0]) == (2, 2)
