"""What the evaluation writes: files that other tools read to the same numbers; of what ships."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
import pytrec_eval

from scalingnote_jax.cli import main
from scalingnote_jax.evaluate.metrics import (
    evaluate_run,
    parse_metric,
    without_own,
    write_qrels,
    write_trec,
)
from scalingnote_jax.evaluate.report.result_table import _compared
from scalingnote_jax.evaluate.rows import ann_recalls, recall_cutoffs
from scalingnote_jax.evaluate.write import by_entities, retention, retention_pair

# Ours → trec_eval's; MRR@10 is the reciprocal rank where that is at least a tenth
NAMES = {
    "Recall@5": "recall_5",
    "nDCG@10": "ndcg_cut_10",
    "P@5": "P_5",
    "MAP": "map",
    "MAP@5": "map_cut_5",
    "Success@1": "success_1",
    "MRR@10": "recip_rank",
}


def judged_run(seed: int) -> tuple[dict[str, dict[str, int]], dict[str, list[tuple[str, float]]]]:
    """40 queries with grades 0 to 3; scores of few values, 0.0 and -0.0 among them, in an order
    that is not that of the ids; every fifth query has no results, every seventh is not in the run.
    """
    rng = np.random.default_rng(seed)
    docs = [f"d{i}" for i in range(30)]
    qrels, run = {}, {}
    for i in range(40):
        chosen = rng.choice(docs, 8, replace=False)
        qrels[f"q{i}"] = {d: int(g) for d, g in zip(chosen, rng.integers(0, 4, 8), strict=True)}
        scores = np.sort(rng.choice([2.0, 1.0, 0.5, 0.0, -0.0, -1.0], 20))[::-1]
        found = list(zip(rng.permutation(docs)[:20].tolist(), scores.tolist(), strict=True))
        if i % 7:
            run[f"q{i}"] = found if i % 5 else []
    return qrels, run


@pytest.mark.parametrize("relevant_from", [1, 2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_metrics_are_those_of_other_tools_on_the_written_files(
    seed: int, relevant_from: int, tmp_path: Path
) -> None:
    qrels, run = judged_run(seed)
    means, singles = evaluate_run(qrels, run, list(NAMES), relevant_from)
    assert set(singles) == {q for q, g in qrels.items() if max(g.values()) >= relevant_from}
    assert 0 < len(singles) <= 40
    write_qrels(tmp_path / "qrels.txt", {q: qrels[q] for q in singles})
    write_trec(tmp_path / "run.trec", run, "ours")
    judgements = list(ir_measures.read_trec_qrels(str(tmp_path / "qrels.txt")))
    ranked = list(ir_measures.read_trec_run(str(tmp_path / "run.trec")))
    measures = {name: parse_metric(name, relevant_from) for name in NAMES}
    found = ir_measures.calc_aggregate(list(measures.values()), judgements, ranked)
    assert means == pytest.approx({n: found[m] for n, m in measures.items()}, abs=1e-9)

    with (tmp_path / "qrels.txt").open() as file:
        their_qrels = pytrec_eval.parse_qrel(file)
    with (tmp_path / "run.trec").open() as file:
        their_run = pytrec_eval.parse_run(file)
    asked = {"recall.5", "ndcg_cut.10", "P.5", "map", "map_cut.5", "success.1", "recip_rank"}
    judge = pytrec_eval.RelevanceEvaluator(their_qrels, asked, relevance_level=relevant_from)
    theirs = judge.evaluate(their_run)
    for query, values in singles.items():
        wanted = {name: theirs.get(query, {}).get(key, 0.0) for name, key in NAMES.items()}
        wanted["MRR@10"] *= wanted["MRR@10"] > 0.099
        assert values == pytest.approx(wanted, abs=1e-9), query


def test_equal_scores_keep_their_order_and_minus_zero_is_zero() -> None:
    run = {"q": [("z", -0.0), ("a", 0.0), ("m", -0.0)]}
    for place, doc in enumerate(("z", "a", "m"), start=1):
        assert evaluate_run({"q": {doc: 1}}, run, ["MRR@10"])[0]["MRR@10"] == 1 / place


def test_a_threshold_changes_what_is_relevant_but_not_the_gain() -> None:
    qrels = {"q": {"a": 1, "b": 2}, "r": {"c": 1}}
    run = {"q": [("a", 2.0), ("b", 1.0)], "r": [("c", 1.0)]}
    names = ["Recall@1", "MRR@10", "nDCG@1"]
    assert evaluate_run(qrels, run, names)[0] == pytest.approx(
        {"Recall@1": (0.5 + 1) / 2, "MRR@10": 1.0, "nDCG@1": (1 / 2 + 1) / 2}
    )
    means, singles = evaluate_run(qrels, run, names, 2)
    assert list(singles) == ["q"]  # r has no document of grade 2
    assert means == {"Recall@1": 0.0, "MRR@10": 0.5, "nDCG@1": 0.5}


def test_the_document_with_the_query_s_own_id_is_left_out() -> None:
    run = {"a": [("a", 3.0), ("b", 2.0), ("c", 1.0)], "x": [("a", 3.0), ("b", 2.0), ("c", 1.0)]}
    assert without_own(run, 2) == {"a": [("b", 2.0), ("c", 1.0)], "x": [("a", 3.0), ("b", 2.0)]}


class Index:
    """Finds the even ones of 0 … 5, and remembers how deep it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __len__(self) -> int:
        return 6

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append(k)
        rows = np.array([0, 2, 4, 1, 3, 5])[:k]
        return np.zeros((len(queries), k)), np.tile(rows, (len(queries), 1))


def test_ann_recall_at_k_is_of_a_search_for_k() -> None:
    assert recall_cutoffs(["nDCG@7", "Recall@50", "MAP", "Recall@100"]) == [10, 50, 100]
    index: Any = Index()
    found = ann_recalls(index, np.zeros((2, 3)), np.tile(np.arange(6), (2, 1)), [1, 3, 10])
    assert found == {"ann_recall@1": 1.0, "ann_recall@3": 2 / 3, "ann_recall@10": 1.0}
    assert index.asked == [1, 3, 6]


def row(system: str, search: str, recall: float) -> dict[str, Any]:
    return {"system": system, "search": search, "metrics": {"Recall@10": recall}}


def test_what_is_kept_is_of_the_student_that_ships() -> None:
    rows = [row("teacher", "exact", 0.8), row("teacher", "scann", 0.5)]
    rows += [row("student", "scann", 0.25), row("refined", "scann", 0.4)]
    assert retention(rows, "student") == {"Recall@10": 0.5}
    assert retention(rows, "refined") == {"Recall@10": 0.8}
    assert retention_pair(rows, "refined") == (3, 1)
    assert retention(rows, "twinbert") == retention(rows, "teacher") == {}
    assert retention(rows[:3], "refined") == {}  # it was not evaluated


def test_comparisons_on_the_terminal_are_of_what_ships_by_the_search_that_there_is() -> None:
    rows = [row("bm25", "lexical", 0.9), row("teacher", "exact", 0.8), row("refined", "exact", 0.4)]
    rows.append(row("student", "exact", 0.1))
    pairs = [("bm25/lexical", "refined/exact", 0.5), ("refined/exact", "teacher/exact", -0.4)]
    pairs.append(("student/exact", "teacher/exact", -0.7))
    found = [
        {"a": a, "b": b, "metric": "Recall@10", "difference": d, "p_holm": 0.01}
        for a, b, d in pairs
    ]
    metrics = {"rows": rows, "shipped": "refined", "comparisons": found}
    assert _compared(metrics, "Recall@10") == [
        "refined/exact − bm25/lexical: Recall@10 -0.500, significant (p 0.01 after Holm)",
        "refined/exact − teacher/exact: Recall@10 -0.400, significant (p 0.01 after Holm)",
    ]


@pytest.mark.slow
def test_own_ids_thresholds_and_named_splits_from_end_to_end(
    finished: Path, tiny_config: Path, beir_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    """As in ArguAna: each query is a document of the corpus, under the same id."""
    documents = [json.loads(line) for line in (beir_folder / "corpus.jsonl").open()]
    with (beir_folder / "queries.jsonl").open("a") as file:
        for doc in documents[:6]:
            file.write(json.dumps({"_id": doc["_id"], "text": doc["text"]}) + "\n")
    lines = [f"d{t}-{d}\td{t}-{1 - d}\t{1 + d}" for t in range(3) for d in range(2)]
    head = "query-id\tcorpus-id\tscore"
    (beir_folder / "qrels" / "dl19.tsv").write_text("\n".join([head, *lines]) + "\n")
    words = ["run", str(tiny_config), f"--data.path={beir_folder}", "--data.more_splits=dl19"]
    words += ["--eval.split=dl19", "--train.duration=1 steps", "--distill.duration="]
    words += ["--eval.systems=bm25,teacher", "--eval.depth=10", "--eval.metrics=Recall@1,MRR@10"]
    run, work = tmp_path / "own.trec", tmp_path / "work"
    run.write_text("".join(f"d0-0 Q0 d{i}-0 {i + 1} {9 - i} own\n" for i in range(3)))
    words += [f"--workdir={work}", f"--eval.runs={run}"]
    assert main(words) == 0
    with_own = json.loads((work / "eval" / "metrics.json").read_text())
    bm25 = with_own["rows"][0]
    assert bm25["queries"] == 6
    assert bm25["metrics"]["Recall@1"] == 0  # each query finds itself first
    assert main([*words, "--eval.leave_out_own_id=true", "--overwrite"]) == 0
    metrics = json.loads((work / "eval" / "metrics.json").read_text())
    assert metrics["rows"][0]["metrics"]["Recall@1"] > 0.5
    for name in ("bm25-lexical", "tiny-exact", "tiny-scann", "own-run"):
        found: dict[str, list[str]] = {}
        for line in (work / "eval" / f"{name}.trec").read_text().splitlines():
            query, _, doc, *_ = line.split()
            found.setdefault(query, []).append(doc)
        assert all(query not in docs for query, docs in found.items())
        if name.startswith("tiny"):
            assert {len(docs) for docs in found.values()} == {10}
    assert found == {"d0-0": ["d1-0", "d2-0"]}
    more = ["--eval.leave_out_own_id=true", "--eval.relevant_from=2", "--overwrite"]
    assert main([*words, *more]) == 0
    metrics = json.loads((work / "eval" / "metrics.json").read_text())
    assert metrics["rows"][0]["queries"] == 3  # every other one has a document of grade 2
    assert metrics["relevant_from"] == 2
    capsys.readouterr()
    assert main([*words, "--eval.relevant_from=3", "--overwrite"]) == 2
    assert "no query has a document of grade 3 or higher" in capsys.readouterr().err
    shutil.rmtree(work)


def test_the_table_names_the_device_and_every_ann_recall(finished: Path) -> None:
    metrics = json.loads((finished / "eval" / "metrics.json").read_text())
    rows = {(r["system"], r["search"]): r for r in metrics["rows"]}
    student = rows["student", "scann"]
    assert {k: v for k, v in student.items() if "ann_recall" in k} == {
        "ann_recall@5": 1.0,
        "ann_recall@10": 1.0,
    }
    assert rows["bm25", "lexical"]["ann_recall@5"] is None
    assert metrics["shipped"] == "student"
    assert "CPU cores" in metrics["latency_device"]


def test_seen_and_unseen_entities_are_told_apart() -> None:
    rows = [row("teacher", "exact", 0.75), row("student", "exact", 0.5)]
    teacher = {"q1": 1.0, "q2": 1.0, "q3": 0.5, "q4": 0.5}
    student = {"q1": 1.0, "q2": 1.0, "q3": 0.0, "q4": 0.25}
    singles = [{q: {"Recall@10": v} for q, v in side.items()} for side in (teacher, student)]
    given = singles, {"q1": True, "q2": True, "q3": False}, ["Recall@10"], 0
    found = by_entities(rows, *given, "student")
    assert {name: group["queries"] for name, group in found.items()} == {"seen": 2, "unseen": 2}
    assert found["seen"]["retention"] == {"Recall@10": 1.0}
    assert found["seen"]["retention_intervals"] == {"Recall@10": [1.0, 1.0]}
    assert found["unseen"]["retention"] == {"Recall@10": 0.25}
    assert found["unseen"]["retention_intervals"] == {"Recall@10": [0.0, 0.5]}
    assert by_entities(rows[:1], *given, "student") == {}
    only = [{q: v for q, v in side.items() if q < "q3"} for side in singles]
    assert list(by_entities(rows, only, *given[1:], "student")) == ["seen"]


def test_a_finished_run_says_both(finished: Path) -> None:
    metrics = json.loads((finished / "eval" / "metrics.json").read_text())
    groups = metrics["entities"]
    assert sum(group["queries"] for group in groups.values()) == metrics["rows"][0]["queries"]
    assert "Seen and unseen entities" in (finished / "report.html").read_text()
