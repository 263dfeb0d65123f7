"""Runs of other systems: read as they are, or refused with the line that is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import ir_measures
import pytest

from scalingnote_jax.cli import main
from scalingnote_jax.config import DataConfig, EvalConfig
from scalingnote_jax.data.dataset import Collection, build_dataset
from scalingnote_jax.errors import UserError
from scalingnote_jax.evaluate.metrics import parse_metric
from scalingnote_jax.evaluate.run_files import read_run, run_rows

GOOD = "q1 Q0 d1 1 2.5 other\nq1 Q0 d2 2 1.5 other\nq2 Q0 d1 1 0.1 other\n"


def test_a_run_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_text(GOOD)
    assert read_run(path, {"q1", "q2"}, {"d1", "d2"}) == (
        "other",
        {"q1": [(1, 2.5, "d1"), (2, 1.5, "d2")], "q2": [(1, 0.1, "d1")]},
    )


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("q1 Q0 d1 3 0.5 other", "the document 'd1' again for query 'q1', first on line 1"),
        ("q1 Q0 d3 2 0.5 other", "the rank 2 again for query 'q1', first on line 2"),
        ("q9 Q0 d1 1 0.5 other", "unknown query 'q9'"),
        ("q1 Q0 d9 3 0.5 other", "unknown document 'd9'"),
        ("q1 Q0 d3 3 0.5", "5 columns"),
        ("", "0 columns"),
        ("q1 Q0 d3 3 nan other", "the score 'nan'; expected a finite number"),
        ("q1 Q0 d3 3 inf other", "the score 'inf'"),
        ("q1 Q0 d3 third 0.5 other", "the rank 'third'; expected an integer"),
        ("q1 Q0 d3 3 0.5 another", "the tag 'another' after 'other'"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "run.trec"
    path.write_text(GOOD + line + "\n")
    with pytest.raises(UserError, match=r"run\.trec:4: ") as error:
        read_run(path, {"q1", "q2"}, {"d1", "d2", "d3"})
    assert says in str(error.value)


def test_an_empty_file_and_a_missing_one(tmp_path: Path, finished: Path) -> None:
    (tmp_path / "empty").write_text("")
    with pytest.raises(UserError, match="no line"):
        read_run(tmp_path / "empty", {"q"}, {"d"})
    collection = Collection.open(finished / "data")
    with pytest.raises(UserError, match=r"--eval\.runs: no file"):
        run_rows(EvalConfig(runs=(str(tmp_path / "none"),)), collection, {"q"})


def test_scores_decide_the_order_and_ranks_among_equal_ones(tmp_path: Path, finished: Path) -> None:
    path = tmp_path / "run.trec"
    lines = [("d0-0", 3, 1.0), ("d1-0", 2, 1.0), ("d2-0", 1, 0.5), ("d3-0", 9, 7.0)]
    path.write_text("".join(f"q0-1 Q0 {d} {rank} {score} my/tag\n" for d, rank, score in lines))
    collection = Collection.open(finished / "data")
    (row,) = run_rows(EvalConfig(runs=(str(path),), depth=3), collection, {"q0-1"})
    assert row.name == "my_tag/run"
    assert [doc for doc, _ in row.run["q0-1"]] == ["d3-0", "d1-0", "d0-0"]
    assert run_rows(EvalConfig(runs=(str(path),)), collection, {"q1-1"})[0].run == {}


def test_a_tag_that_another_row_has_is_refused(tmp_path: Path, finished: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_text("q0-1 Q0 d0-0 1 1.0 student\n")
    with pytest.raises(UserError, match="a tag of its own"):
        run_rows(EvalConfig(runs=(str(path),)), Collection.open(finished / "data"), {"q0-1"})


def by_hand(workdir: Path, run: str, names: list[str]) -> dict[str, float]:
    """ir_measures on the files that eval wrote."""
    qrels = list(ir_measures.read_trec_qrels(str(workdir / "eval" / "qrels.txt")))
    lines = list(ir_measures.read_trec_run(str(workdir / "eval" / run)))
    found = ir_measures.calc_aggregate([parse_metric(n) for n in names], qrels, lines)
    return {name: found[parse_metric(name)] for name in names}


@pytest.mark.slow
def test_every_row_can_be_repeated_by_hand_and_a_run_comes_back_as_it_went_out(
    finished: Path, tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = Path(shutil.copytree(finished, tmp_path / "work"))
    run = tmp_path / "other.trec"
    run.write_text((workdir / "eval" / "student-scann.trec").read_text())
    names = ["Recall@5", "nDCG@10", "MRR@10", "MAP", "MAP@5", "Success@1"]
    words = ["eval", str(tiny_config), f"--workdir={workdir}", "--overwrite"]
    words += [f"--eval.metrics={','.join(names)}", f"--eval.runs={run}"]
    assert main(words) == 0
    metrics = json.loads((workdir / "eval" / "metrics.json").read_text())
    rows = {f"{r['system']}-{r['search']}": r for r in metrics["rows"]}
    for name, row in rows.items():
        assert row["metrics"] == pytest.approx(by_hand(workdir, f"{name}.trec", names), abs=1e-9)
        for metric, (low, high) in row["intervals"].items():
            assert low <= row["metrics"][metric] <= high
    assert rows["student-scann-run"]["metrics"] == rows["student-scann"]["metrics"]
    pair = ("student-scann/run", "student/scann")
    same = [c for c in metrics["comparisons"] if (c["a"], c["b"]) == pair]
    assert {c["metric"] for c in same} == set(names)
    assert {(c["difference"], c["p"], c["p_holm"]) for c in same} == {(0.0, 1.0, 1.0)}
    for metric, (low, high) in metrics["retention_intervals"].items():
        assert low <= metrics["retention"][metric] <= high
    assert metrics["index"]["kind"] == "brute_force"
    assert all(w["teacher"] > w["student"] for w in metrics.get("worst", []))
    out = capsys.readouterr().out
    assert "student/scann − teacher/scann: Recall@5" in out
    assert "±" in out
    run.write_text(run.read_text().replace("Q0 d", "Q0 x", 1))
    assert main(words) == 2  # a changed file is read again
    assert "other.trec:1: unknown document" in capsys.readouterr().err


def test_a_negative_grade_counts_as_not_relevant(beir_folder: Path, tmp_path: Path) -> None:
    with (beir_folder / "qrels" / "test.tsv").open("a") as file:
        file.write("q0-1\td5-0\t-1\n")
    build_dataset(DataConfig(source="beir", path=str(beir_folder)), tmp_path / "data")
    grades = Collection.open(tmp_path / "data").qrels("test")["q0-1"]
    assert grades == {"d0-0": 2, "d5-0": 0}
