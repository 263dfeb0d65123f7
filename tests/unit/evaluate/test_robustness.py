"""The curves: what each point asks of which corpus, and what comes out for a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from run_parts import towers

from scalingnote_jax.config import Config, EvalConfig, replace
from scalingnote_jax.config.values import read_workdir_config
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.data.sources import Document, Query
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.errors import UserError
from scalingnote_jax.evaluate.disturbances import KINDS, Case, check_robustness, make_cases
from scalingnote_jax.evaluate.robustness import merged, robustness, score_points, set_intervals
from scalingnote_jax.evaluate.subject import Subject
from scalingnote_jax.vectors import encoder
from scalingnote_jax.vectors.encoder import Encoders
from scalingnote_jax.workflow.workdir import Workdir
from tests.conftest import make_beir


class Small:
    """Three documents, two queries of the test split and three of the training split."""

    def __init__(self) -> None:
        self.documents = [Document(f"d{i}", "", f"word{i} again") for i in range(3)]
        self.doc_ids = [doc.id for doc in self.documents]
        self.queries = [Query(f"q{i}", f"find word{i} soon") for i in range(5)]

    def qrels(self, split: str) -> dict[str, dict[str, int]]:
        if split == "test":
            return {"q0": {"d0": 2, "d1": 0}, "q1": {"d1": 1}}
        return {f"q{i}": {"d2": 1} for i in (2, 3, 4)}


def config(*kinds: str, **changes: Any) -> Config:
    given = {"robustness_strengths": (0.2, 1.0), "metrics": ("Recall@2",)} | changes
    return Config(name="x", eval=EvalConfig(robustness=kinds, **given))


def cases(*kinds: str, **changes: Any) -> list[Case]:
    made = config(*kinds, **changes)
    return make_cases(made.eval, made.seed, Small())  # type: ignore[arg-type]


def test_the_undisturbed_queries_are_asked_once() -> None:
    clean, *others = cases("casing", "doubled_words")
    assert clean.points == (("casing", 0.0), ("doubled_words", 0.0))
    assert [q.text for q in clean.queries] == ["find word0 soon", "find word1 soon"]
    assert [case.points for case in others] == [
        (("casing", 0.2),),
        (("casing", 1.0),),
        (("doubled_words", 0.2),),
        (("doubled_words", 1.0),),
    ]
    assert [q.text for q in others[1].queries] == ["FIND WORD0 SOON", "FIND WORD1 SOON"]
    assert {q.id for case in others for q in case.queries} == {"q0", "q1"}


def test_copies_of_relevant_documents_only() -> None:
    clean, few, many = cases("near_duplicates")
    assert clean.points == (("near_duplicates", 0.0), ("near_duplicates_merged", 0.0))
    assert [doc.id for doc in few.added] == ["copy:0:d0", "copy:0:d1", "copy:1:d0", "copy:1:d1"]
    assert few.originals["copy:1:d0"] == "d0"
    assert len(many.added) == 20
    assert many.added[:4] == few.added
    # Two documents of three remain when all copies of the first ones are merged.
    assert (clean.k, few.k, many.k) == (2, 2 * 3, 2 * 11)


def test_as_many_strangers_as_the_strength_says(tmp_path: Path) -> None:
    _, one, all_ = cases("shuffled_documents")
    assert (len(one.added), len(all_.added)) == (1, 3)
    assert all_.added[:1] == one.added
    other = make_beir(tmp_path / "other")
    _, one, all_ = cases("foreign_documents", robustness_documents=str(other))
    assert (len(one.added), len(all_.added)) == (1, 3)
    assert all_.added[:1] == one.added
    assert all_.added[0].id.startswith("foreign:d")
    tiny = str(make_beir(tmp_path / "tiny", topics=1))
    with pytest.raises(UserError, match=r"has 2 documents; expected at least 3"):
        cases("foreign_documents", robustness_documents=tiny)


def test_unseen_queries_against_as_many_of_the_training_split() -> None:
    unseen, seen = cases("unseen_queries")
    assert unseen.points == (("unseen_queries", 1.0),)
    assert seen.points == (("unseen_queries", 0.0),)
    assert {q.id for q in seen.queries} < {"q2", "q3", "q4"}
    assert len(seen.queries) == 2
    assert set(seen.qrels) == {q.id for q in seen.queries}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"robustness": ("typo",)}, r"--eval\.robustness: unknown kind 'typo'.*mean 'typos'"),
        ({"robustness_strengths": (0.1, 1.5)}, r"--eval\.robustness_strengths: 1\.5"),
        ({"robustness_strengths": (float("nan"),)}, r"--eval\.robustness_strengths: nan"),
        ({"robustness": ("foreign_documents",)}, r"--eval\.robustness_documents: ''"),
        (
            {"robustness": ("foreign_documents",), "robustness_documents": "/no/such"},
            r"--eval\.robustness_documents: '/no/such' is not a folder",
        ),
        ({"robustness": ("unseen_queries",), "split": "train"}, r"--eval\.split: train"),
    ],
)
def test_bad_options_are_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_robustness(EvalConfig(**changes))


def test_a_copy_counts_as_its_original() -> None:
    run = {"q": [("copy:0:a", 0.9), ("a", 0.8), ("b", 0.7), ("copy:1:b", 0.6), ("c", 0.5)]}
    originals = {"copy:0:a": "a", "copy:1:b": "b"}
    assert merged(run, originals) == {"q": [("a", 0.9), ("b", 0.7), ("c", 0.5)]}
    points = (("near_duplicates", 1.0), ("near_duplicates_merged", 1.0))
    case = Case(points, [Query("q", "x")], {"q": {"b": 1}}, 5, originals=originals)
    raw, counted = score_points(case, run, "bm25", EvalConfig(metrics=("MRR@5",)))
    assert raw.row["value"] == pytest.approx(1 / 3)
    assert counted.row["value"] == pytest.approx(1 / 2)


def test_intervals_hold_the_value_and_an_even_metric_has_none_to_spare() -> None:
    qrels = {f"q{i}": {"d": 1} for i in range(50)}
    queries = [Query(q, "x") for q in qrels]
    half = {q: [("d" if i % 2 else "e", 1.0)] for i, q in enumerate(qrels)}
    cfg = EvalConfig(metrics=("Recall@1",))
    points = score_points(Case((("typos", 0.1),), queries, qrels, 1), half, "bm25", cfg)
    full = {q: [("d", 1.0)] for q in qrels}
    points += score_points(Case((("typos", 0.0),), queries, qrels, 1), full, "bm25", cfg)
    set_intervals(points, 0)
    low, high = points[0].row["interval"]
    assert (low, high) == pytest.approx((0.36, 0.64), abs=0.03)  # 0.5 ± 1.96 · sqrt(.25 / 50)
    assert points[1].row["interval"] == [1.0, 1.0]


@pytest.fixture(scope="module")
def curves(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """All kinds on the tiny run, at two strengths."""
    config = read_workdir_config(finished)
    changes = {
        "robustness": KINDS,
        "robustness_strengths": (0.5, 1.0),
        "robustness_documents": str(make_beir(tmp_path_factory.mktemp("other"), seed=1)),
    }
    config = replace(config, eval=replace(config.eval, **changes))
    workdir = Workdir(finished)
    run = towers(config, workdir)
    encoders = Encoders(run, config.encode, make_mesh(config.mesh))
    for pair in (("teacher", "query"), ("student", "query"), ("teacher", "doc")):
        encoders.get(*pair)  # as the rows of the evaluation do
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "load_encoder", lambda *_: pytest.fail("a tower is loaded again"))
        subject = Subject.of(config, run, Collection.open(workdir.data), workdir)
        return robustness(subject, encoders)


def of(curves: list[dict[str, Any]], kind: str, system: str) -> list[float]:
    return [r["value"] for r in curves if (r["kind"], r["system"]) == (kind, system)]


@pytest.mark.slow
def test_every_curve_is_there_in_order(curves: list[dict[str, Any]]) -> None:
    keys = [(r["kind"], r["system"], r["strength"]) for r in curves]
    expected = []
    for kind in (*KINDS, "near_duplicates_merged"):
        strengths = (0.0, 1.0) if kind == "unseen_queries" else (0.0, 0.5, 1.0)
        expected += [(kind, s, x) for s in ("bm25", "teacher", "student") for x in strengths]
    assert keys == expected
    for row in curves:
        low, high = row["interval"]
        assert low <= row["value"] <= high
        assert row["metric"] == "Recall@5"


def test_strength_zero_is_the_evaluation_itself(finished: Path, curves: Any) -> None:
    rows = json.loads((finished / "eval" / "metrics.json").read_text())["rows"]
    for system, search in (("bm25", "lexical"), ("teacher", "exact"), ("student", "exact")):
        [row] = [r for r in rows if (r["system"], r["search"]) == (system, search)]
        for kind in KINDS:
            at = -1 if kind == "unseen_queries" else 0
            assert of(curves, kind, system)[at] == pytest.approx(row["metrics"]["Recall@5"])


def test_what_must_come_out(curves: list[dict[str, Any]]) -> None:
    """It folds case, and knows no word in another script. A copy never hurts its original."""
    assert len(set(of(curves, "casing", "bm25"))) == 1
    assert of(curves, "look_alikes", "bm25")[-1] < of(curves, "look_alikes", "bm25")[0]
    for system in ("bm25", "teacher", "student"):
        raw = of(curves, "near_duplicates", system)
        counted = of(curves, "near_duplicates_merged", system)
        assert all(a >= b for a, b in zip(counted, raw, strict=True))
        if system != "bm25":  # to which a word with a typo is another word
            assert raw[-1] < raw[0]
