"""A training that has diverged: one line each time, the batch kept, nothing broken saved; and what
a run that was killed finds in its folder.
"""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from line_stage import STEPS, KilledHereError, LineSampler, fit_in

from scalingnote_jax.devices.preemption import Stopped
from scalingnote_jax.errors import UserError
from scalingnote_jax.train.log.divergence import MOST_SKIPPED, DivergenceCheck
from scalingnote_jax.train.log.metrics_log import read_metrics

LINE = (
    "distill, step 6: the loss is nan, the gradient's norm 1.64463; batch of point-5-0, point-5-1"
)


def saved(folder: Path) -> list[int]:
    return sorted(int(p.name) for p in (folder / "checkpoints").iterdir())


def test_a_diverged_run_says_the_same_each_time_and_keeps_its_last_good_step(tmp_path: Path):
    run, said = tmp_path / "run", []
    for _ in range(3):
        with pytest.raises(UserError) as failed:
            fit_in(run, poison_at=5)
        said.append(str(failed.value))
        assert saved(run) == [4]
    assert said[0].startswith(LINE)
    assert said == [said[0]] * 3
    (kept,) = (run / "diverged").iterdir()
    assert str(kept) in said[0]
    batch = np.load(kept)
    np.testing.assert_array_equal(batch["x"], LineSampler().batch(5)["x"])
    assert batch["ids"].tolist() == [f"point-5-{i}" for i in range(8)]
    assert np.isnan(batch["loss"])


def test_a_repaired_run_goes_on_from_the_good_step_and_ends_as_if_nothing_had_been(tmp_path: Path):
    with pytest.raises(UserError):
        fit_in(tmp_path / "run", poison_at=5)
    repaired, whole = fit_in(tmp_path / "run"), fit_in(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, repaired.params, whole.params)
    assert not (tmp_path / "run" / "diverged").exists()


@pytest.mark.parametrize("at", [STEPS - 1, 3])
def test_the_last_step_and_the_one_that_is_saved_are_looked_at_too(tmp_path: Path, at: int):
    with pytest.raises(UserError, match=f"step {at + 1}: "):
        fit_in(tmp_path / "run", poison_at=at)
    assert at + 1 not in saved(tmp_path / "run")


def test_a_spike_is_skipped_and_counted(tmp_path: Path):
    state = fit_in(tmp_path / "run", poison_at=5, skip_spikes=6.0)
    assert all(np.isfinite(x).all() for x in state.params.values())
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [r["skipped"] for r in records] == [0, 1, 0, 0]
    losses = [x for r in records for x in r["losses"]]
    assert losses[5] is None
    assert records[1]["loss"] == pytest.approx((losses[3] + losses[4]) / 2, rel=1e-6)


def test_only_skipped_batches_are_a_divergence(tmp_path: Path):
    check = DivergenceCheck("train", tmp_path, LineSampler())
    one = {"loss": (np.inf, 1.0), "grad_norm": (1.0, 1.0), "skipped": (1.0, 1.0)}
    good = {"loss": (1.0, 1.0), "grad_norm": (1.0, 1.0), "skipped": (0.0, 1.0)}
    check.look(1, [one] * (MOST_SKIPPED - 1) + [good] + [one] * (MOST_SKIPPED - 1))
    with pytest.raises(UserError, match=f"step {2 * MOST_SKIPPED}: {MOST_SKIPPED} batches in a"):
        check.look(2 * MOST_SKIPPED, [one])


def test_a_killed_run_has_its_records_up_to_the_checkpoint(tmp_path: Path):
    """Records of steps 3, 6, …, checkpoints of 4, 8, …: killed right after a checkpoint."""
    fit_in(tmp_path / "whole")
    with pytest.raises(KilledHereError):
        fit_in(tmp_path / "run", fail_at=8)
    assert saved(tmp_path / "run") == [4, 8]
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [r["step"] for r in records] == [3, 6]
    fit_in(tmp_path / "run")
    both = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "run")]
    curves = [[{"step": r["step"], "losses": r["losses"]} for r in records] for records in both]
    assert curves[0] == curves[1]


def test_checkpoints_that_a_killed_run_left_are_pruned_at_the_next_start(tmp_path: Path):
    fit_in(tmp_path / "run", total=8)
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(folder / "4", folder / "2")
    assert saved(tmp_path / "run") == [2, 4, 8]
    fit_in(tmp_path / "run", total=8)
    assert saved(tmp_path / "run") == [4, 8]


def test_sigint_ends_a_training_as_sigterm_does_when_the_command_listens(tmp_path: Path):
    from scalingnote_jax.devices.preemption import signals

    before = signal.getsignal(signal.SIGINT)
    with signals(), pytest.raises(Stopped) as ended:
        fit_in(tmp_path / "run", term_at=6, signum=signal.SIGINT)
    assert ended.value.code == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert saved(tmp_path / "run")


def test_records_are_json_of_finite_numbers(tmp_path: Path):
    fit_in(tmp_path / "run", poison_at=5, skip_spikes=6.0)

    def refuse(word: str) -> float:
        raise ValueError(word)

    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
