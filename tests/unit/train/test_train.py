"""Steps, schedule, freezing, checkpoints and the loop, on a model of a few numbers."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from line_stage import STEPS, fit_in, make_stage

from scalingnote_jax.config import MeshConfig
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.errors import UserError
from scalingnote_jax.models.layers.params import flatten, nest
from scalingnote_jax.train.checkpoint import TrainingCheckpoints
from scalingnote_jax.train.log.metrics_log import read_metrics
from scalingnote_jax.train.state import split_frozen


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path: Path):
    whole = fit_in(tmp_path / "whole")
    fit_in(
        tmp_path / "parts", total=7
    )  # stopped at step 7, and its log is longer than its last checkpoint
    parts = fit_in(tmp_path / "parts")
    for path, x in (whole.params | whole.frozen).items():
        np.testing.assert_array_equal((parts.params | parts.frozen)[path], x)
    jax.tree.map(np.testing.assert_array_equal, parts.opt_state, whole.opt_state)
    assert int(parts.step) == STEPS
    logs = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts")]
    steps = [[x for r in log for x in r["losses"]] for log in logs]
    assert steps[0] == steps[1]
    assert len(steps[0]) == STEPS


def test_sigterm_saves_and_ends_and_the_same_command_goes_on(tmp_path: Path, capsys):
    handler = signal.getsignal(signal.SIGTERM)
    whole = fit_in(tmp_path / "whole")
    with pytest.raises(SystemExit) as ended:
        fit_in(tmp_path / "told", term_at=6)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is handler
    saved = max(int(p.name) for p in (tmp_path / "told" / "checkpoints").iterdir())
    assert saved < STEPS  # batches are made ahead, so the signal comes some steps early
    assert f"saved step {saved}" in capsys.readouterr().err
    parts = fit_in(tmp_path / "told")
    jax.tree.map(np.testing.assert_array_equal, parts.params, whole.params)
    logs = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "told")]
    steps = [[x for r in log for x in r["losses"]] for log in logs]
    assert steps[0] == steps[1]


def test_a_checkpoint_is_restored_onto_another_mesh(tmp_path: Path):
    state = fit_in(tmp_path / "run", mesh=make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)), total=4)
    for devices, cfg in ((4, MeshConfig(data=1, fsdp=4)), (1, MeshConfig())):
        mesh = make_mesh(cfg, np.asarray(jax.devices()[:devices]))
        stage = make_stage(tmp_path / "run", mesh)
        checkpoints = TrainingCheckpoints(tmp_path / "run" / "checkpoints")
        back = checkpoints.restore(4, stage.prepared.abstract, stage.prepared.shardings)
        np.testing.assert_array_equal(
            np.asarray(back.params["a/w"]), np.asarray(state.params["a/w"])
        )
        assert back.params["a/w"].sharding.mesh.size == devices
        checkpoints.close()


def test_a_checkpoint_of_another_shape_or_config_is_refused(tmp_path: Path):
    fit_in(tmp_path / "run", total=4)
    with pytest.raises(UserError, match="another config or other data"):
        fit_in(tmp_path / "run", inputs="y")
    checkpoints = TrainingCheckpoints(tmp_path / "run" / "checkpoints")
    like = {"a/w": jax.ShapeDtypeStruct((5, 2), np.float32)}
    with pytest.raises(UserError, match=r"a/w has shape \[4, 2\]; expected \[5, 2\]"):
        checkpoints.restore_params(4, like, {})
    checkpoints.close()


def test_only_the_newest_checkpoints_stay(tmp_path: Path):
    fit_in(tmp_path / "run")
    assert sorted(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir()) == [8, 12]


def test_records_of_a_killed_run_are_those_of_one_that_was_not(tmp_path: Path):
    """A checkpoint at a step that is no log step carries what belongs to the next record."""
    kept = {}
    for name, stops in (("whole", ()), ("killed", (8, 4))):
        folder = tmp_path / name
        for _ in range(1 + len(stops)):
            fit_in(folder)
            for stop in stops[:1]:
                for path in (folder / "checkpoints").iterdir():
                    if int(path.name) > stop:
                        shutil.rmtree(path)
            stops = stops[1:]
        records = read_metrics(folder / "metrics.jsonl")
        timed = ("secs", "examples_per_sec", "tokens_per_sec", "host_share")
        kept[name] = [{k: v for k, v in r.items() if k not in timed} for r in records]
    assert kept["killed"] == kept["whole"]


def test_a_checkpoint_that_a_killed_run_left_is_removed(tmp_path: Path):
    fit_in(tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(folder / "8", folder / "2")
    fit_in(tmp_path / "run")
    assert sorted(int(p.name) for p in folder.iterdir()) == [8, 12]


def test_the_log_adds_up(tmp_path: Path):
    fit_in(tmp_path / "run")
    records = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [r["step"] for r in records] == [3, 6, 9, 12]
    for r in records:
        assert r["loss"] == pytest.approx(np.mean(r["losses"]), rel=1e-6)
        assert 0 <= r["host_share"] <= 1
        assert r["padding"] == 0
    assert records[-1]["loss"] < records[0]["loss"]


def test_frozen_parameters_stay_and_have_no_moments(tmp_path: Path):
    state = fit_in(tmp_path / "run")
    np.testing.assert_array_equal(state.frozen["frozen"], np.full(3, 0.1, np.float32))
    sizes = {x.shape for x in jax.tree.leaves(state.opt_state)}
    assert (3,) not in sizes
    assert (4, 2) in sizes


def test_freezing_by_path():
    params = {"query/body/embedding": 1, "query/body/layers/q": 2, "doc/body/embedding": 3}
    trained, frozen = split_frozen("x", params, ("^query/.*embedding",))
    assert frozen == {"query/body/embedding": 1}
    assert trained | frozen == params
    with pytest.raises(UserError, match="matches a parameter"):
        split_frozen("x", params, ("nothing-like-it",))
    with pytest.raises(UserError, match="freezes every parameter"):
        split_frozen("x", params, (".",))


def test_flat_and_nested():
    tree = {"a": {"b": 1, "c": {"d": 2}}}
    assert flatten(tree) == {"a/b": 1, "a/c/d": 2}
    assert nest(flatten(tree)) == tree
