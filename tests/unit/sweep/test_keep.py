"""Which student of a sweep is the smallest that keeps what was asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scalingnote_jax.errors import UserError
from scalingnote_jax.sweep.cells import SweepCell
from scalingnote_jax.sweep.keep import Wanted, print_students, smallest, students
from scalingnote_jax.sweep.run_cells import CellRun

METRICS = ("Recall@10", "Recall@50")


def cell(
    folder: Path, name: str, kept: float, low: float, params: float, **more: object
) -> CellRun:
    (folder / name / "eval").mkdir(parents=True)
    row = {"system": "student", "query_ms_p50": None, "params_non_embedding": params}
    metrics = {
        "shipped": "student",
        "retention": {"Recall@50": kept},
        "retention_intervals": {"Recall@50": [low, 1.1]},
        "rows": [{**row, "system": "teacher"}, row, {**row, "query_ms_p50": params / 1e6}],
    }
    (folder / name / "eval" / "metrics.json").write_text(json.dumps(metrics | more))
    return CellRun(SweepCell({}, 0, {"size": name}), folder / name, [], "done")


@pytest.fixture
def runs(tmp_path: Path) -> list[CellRun]:
    waiting = CellRun(SweepCell({}, 0, {"size": "later"}), tmp_path / "later", [])
    return [
        cell(tmp_path, "six", 1.01, 0.995, 6e6),
        cell(tmp_path, "two", 0.992, 0.97, 2e6),
        cell(tmp_path, "none", 0.8, 0.7, 0),
        cell(tmp_path, "four", 0.985, 0.96, 4e6),
        cell(tmp_path, "bare", 1, 1, 1e6, retention={}),
        waiting,
    ]


def test_the_smallest_that_keeps_it(runs: list[CellRun]) -> None:
    found = students(runs, "Recall@50")
    assert [one["cell"] for one in found] == [
        f"size={name},seed=0" for name in ("none", "two", "four", "six")
    ]
    assert found[1]["ms"] == 2.0
    asked = {"Recall@50 80%": "none", "Recall@50 99%": "two", "Recall@50 100 %": "six"}
    for text, name in asked.items():
        chosen = smallest(found, Wanted.parse(text, METRICS))
        assert chosen is not None
        assert chosen["cell"] == f"size={name},seed=0"
    assert smallest(found, Wanted("Recall@50", 1.02)) is None


def test_what_is_said(runs: list[CellRun], capsys: pytest.CaptureFixture[str]) -> None:
    found = students(runs, "Recall@50")
    print_students(found, Wanted("Recall@50", 0.99))
    assert "keeps 0.99 of Recall@50: size=two,seed=0 (99.2%, its interval begins at 97.0%)" in (
        capsys.readouterr().err
    )
    print_students(found, Wanted("Recall@50", 1.5))
    assert (
        "no student of the sweep keeps 1.5 of Recall@50; the nearest is size=six,seed=0 with 101.0%"
        in (capsys.readouterr().err)
    )
    print_students([], Wanted("Recall@50", 0.9))
    assert "no student of the sweep keeps 0.9 of Recall@50" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["Recall@50", "99%", "Recall@50 99", "Recall@50 0%", "nDCG@10 99%"]
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--keep: "):
        Wanted.parse(text, METRICS)
