"""A sweep: its cells, what they share, what happens when one fails, and the numbers of an axis."""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scalingnote_jax.cli import main
from scalingnote_jax.config import Config, replace
from scalingnote_jax.config.load import load_config
from scalingnote_jax.errors import UserError
from scalingnote_jax.evaluate.statistics import interval, resampled_over_runs
from scalingnote_jax.sweep import Sweep
from scalingnote_jax.sweep import run_sweep as command
from scalingnote_jax.sweep.cells import make_cells
from scalingnote_jax.sweep.points import mean_of
from scalingnote_jax.sweep.run_cells import failure
from scalingnote_jax.sweep.spec import load_sweep

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
AXES = {"distill.w_mse": (0.0, 1.0), "train.temperature": (0.1, 0.2, 0.05)}
Start = Callable[[list[str], Path], int]


@pytest.fixture(scope="module")
def base(tiny_config: Path) -> Config:
    """Temperature 0.2, w_mse 1; two systems, so that it is quick."""
    config = load_config(tiny_config)
    return replace(config, eval=replace(config.eval, systems=("teacher", "student")))


def test_one_at_a_time(base: Config) -> None:
    sweep = Sweep(base, AXES, seeds=(0, 1))
    cells = make_cells(sweep)
    assert [cell.name for cell in cells] == [
        "distill.w_mse=0.0,seed=0",
        "distill.w_mse=0.0,seed=1",
        "base,seed=0",
        "base,seed=1",
        "train.temperature=0.1,seed=0",
        "train.temperature=0.1,seed=1",
        "train.temperature=0.05,seed=0",
        "train.temperature=0.05,seed=1",
    ]
    config = sweep.config_with(cells[5].words)
    assert (config.train.temperature, config.seed, config.distill.w_mse) == (0.1, 1, 1.0)


def test_grid(base: Config) -> None:
    cells = make_cells(Sweep(base, AXES, mode="grid"))
    assert len(cells) == 2 * 3
    assert cells[0].name == "distill.w_mse=0.0,train.temperature=0.1,seed=0"
    assert len({cell.name for cell in cells}) == 6


def test_names_are_folders(base: Config) -> None:
    tuples = Sweep(base, {"distill.queries": (("train",), ("train", "sentences", "titles"))})
    names = [cell.name for cell in make_cells(tuples)]
    assert names[1] == "distill.queries=train,sentences,titles,seed=0"
    durations = make_cells(Sweep(base, {"train.duration": ("20 steps", "9 steps")}))
    assert [cell.name for cell in durations] == ["base,seed=0", "train.duration=9-steps,seed=0"]
    long = {"teacher.query.text.prompt": ("{text} " * 30, "{text} " * 31)}
    first, second = (cell.name for cell in make_cells(Sweep(base, long)))
    assert first != second
    assert len(first) < 120


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": {}}, "no axis"),
        ({"axes": {"distill.w_mse": ()}}, "an axis without values"),
        ({"axes": {"distill.w_mes": (1.0,)}}, "did you mean --distill.w_mse"),
        ({"axes": {"distill.w_mse": ("much",)}}, "cannot take 'much'"),
        ({"axes": {"seed": (1, 2)}}, "'seed' as an axis"),
        ({"seeds": ()}, "seeds of the sweep: none"),
        ({"mode": "random"}, "mode of the sweep: 'random'"),
    ],
)
def test_sweeps_that_cannot_be_run(base: Config, change: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        make_cells(replace(Sweep(base, AXES), **change))
    assert message in str(error.value)


def test_the_example(tmp_path: Path) -> None:
    sweep = load_sweep(CONFIGS / "sweep_temperature.py")
    assert len(make_cells(sweep)) == 3 * (1 + 2 + 2 + 2)  # seeds × (base and the others)
    broken = tmp_path / "s.py"
    broken.write_text("def get_sweep():\n    return 3")
    with pytest.raises(UserError, match=r"get_sweep\(\) returned int; expected a Sweep"):
        load_sweep(broken)


def test_what_a_failed_process_said(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("step 3\nscalingnote: --x: wrong\nwarning: leaked\n")
    assert failure(2, log) == "scalingnote: --x: wrong"
    log.write_text("Traceback\n  File\nValueError: no\n\n")
    assert failure(1, log) == "ValueError: no"
    assert failure(-signal.SIGKILL, log) == "ended by SIGKILL (out of memory?)"


def sweep_file(folder: Path, tiny_config: Path, axes: str) -> Path:
    path = folder / "small.py"
    path.write_text(f"""
from scalingnote_jax.config.load import load_config
from scalingnote_jax.sweep import Sweep

def get_sweep():
    base = load_config({str(tiny_config)!r}, ["--eval.systems=teacher,student"])
    return Sweep(base, axes={axes}, seeds=(1,))
""")
    return path


def in_this_process(words: list[str], log: Path) -> int:
    """A cell without a process of its own, which would take seconds to start."""
    log.write_text("scalingnote: no such batch\n")
    return main(words)


@pytest.fixture(scope="module")
def swept(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of which one value cannot be trained: six documents are not split over 8 devices."""
    folder = tmp_path_factory.mktemp("sweep")
    path = sweep_file(folder, tiny_config, "{'distill.batch_size': (8, 6, 16)}")
    with pytest.raises(SystemExit) as end:
        run(path, folder / "w", in_this_process)
    assert end.value.code == 1
    return folder


def run(path: Path, workdir: Path, start: Start) -> None:
    command.main(argparse.ArgumentParser(), [str(path), f"--workdir={workdir}"], start)


@pytest.mark.slow
def test_a_failed_cell_is_shown_and_the_others_are_done(swept: Path) -> None:
    found = json.loads((swept / "w" / "sweep.json").read_text())
    status = {cell["name"]: (cell["status"], cell["error"]) for cell in found["cells"]}
    assert status == {
        "base,seed=1": ("done", ""),
        "distill.batch_size=6,seed=1": ("failed", "scalingnote: no such batch"),
        "distill.batch_size=16,seed=1": ("done", ""),
    }
    page = (swept / "w" / "sweep.html").read_text()
    assert page.count("scalingnote: no such batch") == 1
    assert page.count("<svg") >= 3  # the plot, and its legend of two
    assert not any(word in page for word in ("<link", "<img", "src=", "@import"))


@pytest.mark.slow
def test_equal_steps_are_shared(swept: Path) -> None:
    cells = swept / "w" / "cells"
    a, b = (cells / f"{name},seed=1" for name in ("base", "distill.batch_size=16"))
    for step in ("data", "teacher", "embeddings/teacher-doc", "embeddings/teacher-distill"):
        assert next((a / step).glob("*.json")).samefile(next((b / step).glob("*.json"))), step
    assert not (a / "student" / "done.json").samefile(b / "student" / "done.json")


@pytest.mark.slow
def test_points_are_what_the_evaluations_say(swept: Path) -> None:
    found = json.loads((swept / "w" / "sweep.json").read_text())
    points = {(p["value"], p["system"], p["metric"]): p for p in found["points"]}
    assert {value for value, _, _ in points} == {"8", "16"}
    for value, cell in (("8", "base"), ("16", "distill.batch_size=16")):
        metrics = swept / "w" / "cells" / f"{cell},seed=1" / "eval" / "metrics.json"
        rows = json.loads(metrics.read_text())["rows"]
        for row in (row for row in rows if row["search"] == "scann"):
            point = points[value, row["system"], "Recall@10"]
            assert point["mean"] == pytest.approx(row["metrics"]["Recall@10"])
            assert point["interval"] == pytest.approx(row["intervals"]["Recall@10"], abs=0.06)


def test_a_point_of_several_runs() -> None:
    runs = [{"a": 1.0, "b": 0.0}, {"b": 0.5, "a": 0.5}]
    point = mean_of(runs, seed=0)
    assert (point["mean"], point["runs"]) == (0.5, 2)
    low, high = point["interval"]
    assert 0 <= low < 0.5 < high <= 1
    assert mean_of([*runs, {"a": 0.2}], seed=0)["interval"] is None  # other queries


@pytest.mark.slow
def test_it_goes_on_where_it_stopped(swept: Path, tiny_config: Path) -> None:
    """What is done is not started again; what failed is, and so is a cell whose end is missing."""
    started: list[str] = []

    def start(words: list[str], log: Path) -> int:
        started.append(next(w for w in words if w.startswith("--workdir=")).split("/")[-1])
        return in_this_process(words, log)

    (swept / "w" / "cells" / "base,seed=1" / "eval" / "done.json").unlink()
    with pytest.raises(SystemExit):
        run(swept / "small.py", swept / "w", start)
    assert started == ["base,seed=1", "distill.batch_size=6,seed=1"]
    words = [str(swept / "small.py"), f"--workdir={swept / 'w'}", "--distill.w_cos=3"]
    with pytest.raises(UserError, match="this workdir is of another config"):
        command.main(argparse.ArgumentParser(), words, start)


@pytest.mark.slow
def test_each_cell_in_a_process(tiny_config: Path, tmp_path: Path) -> None:
    path = sweep_file(tmp_path, tiny_config, "{'distill.batch_size': (8, 6)}")
    assert main(["sweep", "none.py"]) == 2
    with pytest.raises(SystemExit) as end:
        main(["sweep", str(path), f"--workdir={tmp_path / 'w'}", "--data.max_documents=0"])
    assert end.value.code == 1
    found = json.loads((tmp_path / "w" / "sweep.json").read_text())
    assert [cell["status"] for cell in found["cells"]] == ["done", "failed"]
    assert "distill.batch_size: 6" in found["cells"][1]["error"]


def test_intervals_over_runs_and_queries() -> None:
    """Runs that agree leave the luck of the queries; runs that differ add their own."""
    rng = np.random.default_rng(0)
    queries = rng.random(200)
    alike = interval(resampled_over_runs(np.stack([queries] * 4), 0))
    width = 2 * 1.96 * queries.std() / 200**0.5
    assert alike[1] - alike[0] == pytest.approx(width, rel=0.1)
    apart = np.stack([queries + shift for shift in (-0.3, -0.1, 0.1, 0.3)])
    low, high = interval(resampled_over_runs(apart, 0))
    both = 2 * 1.96 * (queries.var() / 200 + 0.05 / 4) ** 0.5  # the four shifts' variance is 0.05
    assert high - low == pytest.approx(both, rel=0.1)
