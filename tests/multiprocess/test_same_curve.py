"""One job, three shapes: 1 device, 8 fake devices, 2 processes of 4. The losses must be the same,
and so must the rest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCHER = REPOSITORY / "launch" / "local_processes.py"
TOLERANCE = 1e-4


def scalingnote(
    words: list[str], devices: int, processes: int = 1
) -> subprocess.CompletedProcess[str]:
    """Runs the command in processes of its own with so many fake devices each."""
    command = [sys.executable, "-m", "scalingnote_jax.cli", *words]
    if processes > 1:
        command = [sys.executable, str(LAUNCHER), str(processes), "--", *command]
    flags = f"--xla_force_host_platform_device_count={devices}"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=300, check=False
    )


def losses(workdir: Path, stage: str) -> np.ndarray:
    """The loss of each step."""
    records = [
        json.loads(line) for line in (workdir / stage / "metrics.jsonl").read_text().splitlines()
    ]
    return np.array([x for r in records for x in r["losses"]])


@pytest.fixture(scope="module")
def runs(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The workdirs of the three shapes, each run to the end."""
    done = {}
    for name, devices, processes, mesh in (
        ("one", 1, 1, []),
        ("eight", 8, 1, ["--mesh.fsdp=2", "--mesh.tensor=2"]),
        ("two-by-four", 4, 2, ["--mesh.fsdp=4"]),
    ):
        workdir = tmp_path_factory.mktemp(name)
        result = scalingnote(
            ["run", str(tiny_config), f"--workdir={workdir}", *mesh], devices, processes
        )
        assert result.returncode == 0, result.stderr[-3000:]
        done[name] = workdir
    return done


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["eight", "two-by-four"])
@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_the_loss_curve_does_not_depend_on_the_shape(runs: dict[str, Path], shape: str, stage: str):
    expected = losses(runs["one"], stage)
    assert len(expected) == 20
    np.testing.assert_allclose(losses(runs[shape], stage), expected, atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["eight", "two-by-four"])
def test_vectors_and_metrics_do_not_depend_on_the_shape(runs: dict[str, Path], shape: str):
    def vectors(workdir: Path) -> np.ndarray:
        folder = workdir / "embeddings" / "teacher-doc"
        return np.concatenate([np.load(p) for p in sorted(folder.glob("*.npy"))])

    assert len(vectors(runs["one"])) == 40
    np.testing.assert_allclose(vectors(runs[shape]), vectors(runs["one"]), atol=1e-3)
    one, other = (
        json.loads((runs[n] / "eval" / "metrics.json").read_text()) for n in ("one", shape)
    )
    for a, b in zip(one["rows"], other["rows"], strict=True):
        assert a["metrics"] == pytest.approx(b["metrics"], abs=0.05), a["system"]


@pytest.mark.slow
def test_a_checkpoint_moves_to_another_mesh(runs: dict[str, Path]):
    # Written by 2 processes of 4 devices, read by this one process of 8.
    import scalingnote_jax

    ours = scalingnote_jax.load(runs["two-by-four"]).encode_queries(["topic3 cedar"])
    theirs = scalingnote_jax.load(runs["one"]).encode_queries(["topic3 cedar"])
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_a_failing_process_ends_the_job_and_shows_its_log(tmp_path: Path):
    script = tmp_path / "fail.py"
    script.write_text(
        "import os, sys, time\n"
        "if os.environ['SCALINGNOTE_PROCESS_ID'] == '1':\n"
        "    print('the reason'); sys.exit(3)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, str(LAUNCHER), "2", "--", sys.executable, str(script)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 3
    assert "the reason" in result.stderr
    assert "process 1 of 2 ended with 3" in result.stderr
