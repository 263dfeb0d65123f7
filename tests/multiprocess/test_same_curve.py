"""One job in three shapes: 1 device, 2 processes of 4, 4 processes of 2 that go on with what the 2
left, and 1 that goes on with what the 4 left. The losses must be the same, and so must the rest.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCHER = REPOSITORY / "launch" / "local_processes.py"
TOLERANCE = 1e-4


def in_processes(
    command: list[str], devices: int, processes: int = 1
) -> subprocess.CompletedProcess[str]:
    """Runs a command in processes of its own with so many fake devices each."""
    if processes > 1:
        command = [sys.executable, str(LAUNCHER), str(processes), "--", *command]
    # The last one counts.
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    path = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests' / 'helpers'}"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=600, check=False
    )


def scalingnote(
    words: list[str], devices: int, processes: int = 1
) -> subprocess.CompletedProcess[str]:
    """Runs the `scalingnote` command so."""
    return in_processes([sys.executable, "-m", "scalingnote_jax.cli", *words], devices, processes)


def losses(workdir: Path, stage: str) -> np.ndarray:
    """The loss of each step."""
    records = [
        json.loads(line) for line in (workdir / stage / "metrics.jsonl").read_text().splitlines()
    ]
    return np.array([x for r in records for x in r["losses"]])


@pytest.fixture(scope="module")
def runs(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The workdirs of the shapes, each run to the end."""
    folder = tmp_path_factory.mktemp("runs")
    # Rows that neither shards, batches nor devices divide: 40 = 23 + 17.
    words = ["run", str(tiny_config), "--encode.batch_size=12", "--encode.shard_rows=23"]
    words += ["--eval.exact.block_rows=3"]

    def run(name: str, devices: int, processes: int, *mesh: str) -> None:
        done = scalingnote([*words, f"--workdir={folder / name}", *mesh], devices, processes)
        assert done.returncode == 0, done.stderr[-3000:]

    run("one", 1, 1)
    run("two-by-four", 4, 2, "--mesh.fsdp=2", "--mesh.tensor=2")
    shutil.copytree(folder / "two-by-four", folder / "four-by-two")
    stop_after(15, folder / "four-by-two", "teacher")
    for later in ("embeddings", "student", "index", "eval"):
        shutil.rmtree(folder / "four-by-two" / later)
    run("four-by-two", 2, 4, "--mesh.slice=2", "--mesh.fsdp=2")
    shutil.copytree(folder / "four-by-two", folder / "one-again")
    stop_after(15, folder / "one-again", "student")
    run("one-again", 1, 1)
    return {path.name: path for path in folder.iterdir()}


def stop_after(step: int, workdir: Path, stage: str) -> None:
    """Makes a finished stage look as if killed between checkpoint `step` and the next."""
    (workdir / stage / "done.json").unlink()
    later = [p for p in (workdir / stage / "checkpoints").iterdir() if int(p.name) > step]
    assert later
    for checkpoint in later:
        shutil.rmtree(checkpoint)


def vectors(workdir: Path) -> np.ndarray:
    folder = workdir / "embeddings" / "teacher-doc"
    return np.concatenate([np.load(p) for p in sorted(folder.glob("*.npy"))])


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["two-by-four", "four-by-two", "one-again"])
@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_the_loss_curve_does_not_depend_on_the_shape(runs: dict[str, Path], shape: str, stage: str):
    expected = losses(runs["one"], stage)
    assert len(expected) == 20
    np.testing.assert_allclose(losses(runs[shape], stage), expected, atol=TOLERANCE)


@pytest.mark.slow
def test_the_runs_that_were_stopped_went_on(runs: dict[str, Path]):
    # `secs` counts from the start of the process: it falls where another one took over.
    for shape, stage in (("four-by-two", "teacher"), ("one-again", "student")):
        kept, before = (
            [json.loads(line) for line in (runs[w] / stage / "metrics.jsonl").open()]
            for w in (shape, {"four-by-two": "two-by-four", "one-again": "four-by-two"}[shape])
        )
        assert [r["step"] for r in kept] == [5, 10, 15, 20]
        assert kept[:3] == before[:3]
        assert kept[3]["secs"] != before[3]["secs"]


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["two-by-four", "four-by-two", "one-again"])
def test_vectors_and_metrics_do_not_depend_on_the_shape(runs: dict[str, Path], shape: str):
    assert len(vectors(runs["one"])) == 40
    np.testing.assert_allclose(vectors(runs[shape]), vectors(runs["one"]), atol=1e-3)
    one, other = (
        json.loads((runs[n] / "eval" / "metrics.json").read_text()) for n in ("one", shape)
    )
    for a, b in zip(one["rows"], other["rows"], strict=True):
        assert a["metrics"] == pytest.approx(b["metrics"], abs=0.05), a["system"]


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["two-by-four", "four-by-two"])
def test_the_store_has_each_document_once_and_in_order(runs: dict[str, Path], shape: str):
    folder = runs[shape] / "embeddings" / "teacher-doc"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [shard["rows"] for shard in manifest["shards"]] == [23, 17]
    expected = [f"d{topic}-{i}" for topic in range(20) for i in range(2)]
    assert json.loads((folder / "ids.json").read_text()) == expected


@pytest.mark.slow
def test_a_checkpoint_moves_to_another_mesh(runs: dict[str, Path]):
    # Written by 2 processes of 4 devices, read by this one process of 8.
    import scalingnote_jax

    ours = scalingnote_jax.load(runs["two-by-four"]).encode_queries(["topic3 cedar"])
    theirs = scalingnote_jax.load(runs["one"]).encode_queries(["topic3 cedar"])
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.fixture(scope="module")
def dealt(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of 4 processes says of itself; see own_rows_job.py."""
    out = tmp_path_factory.mktemp("dealt")
    job = [str(Path(__file__).with_name("own_rows_job.py")), str(out), str(runs["two-by-four"])]
    done = in_processes([sys.executable, *job], 2, 4)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((out / f"{i}.json").read_text()) for i in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "rows", "parts"),
    [
        ("plain", [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]], 4),
        ("slices", [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]], 4),
        ("in turns", [[0, 1, 8, 9], [2, 3, 10, 11], [4, 5, 12, 13], [6, 7, 14, 15]], 4),
        ("tensor over processes", [[*range(8)], [*range(8)], [*range(8, 16)], [*range(8, 16)]], 2),
    ],
)
def test_each_process_feeds_what_its_devices_hold(
    dealt: list[dict[str, Any]], mesh: str, rows: list[list[int]], parts: int
):
    assert [process[mesh]["rows"] for process in dealt] == rows
    distinct = [r for i, r in enumerate(rows) if r not in rows[:i]]
    assert [p[mesh]["part"] for p in dealt] == [[distinct.index(r), parts] for r in rows]
    assert all(process[mesh]["arrived"] == list(range(16)) for process in dealt)


@pytest.mark.slow
def test_each_process_reads_its_rows_of_the_store_and_finds_the_same(dealt: list[dict[str, Any]]):
    reads = [process["search"]["read"] for process in dealt]
    assert sorted(row for read in reads for row in read) == list(range(100))
    assert max(map(len, reads)) <= 2 * 2 * 8  # two loads of 8 rows on each of 2 devices
    numbers = np.random.default_rng(0).integers(-3, 4, size=(103, 4)).astype(np.float32)
    expected = np.argsort(-(numbers[:3] @ numbers[3:].T), axis=1, kind="stable")[:, :20]
    assert all(process["search"]["found"] == expected.tolist() for process in dealt)


@pytest.mark.slow
def test_vectors_belong_to_their_documents_however_devices_lie(
    dealt: list[dict[str, Any]], runs: dict[str, Path]
):
    for process in dealt:
        np.testing.assert_allclose(process["vectors"], vectors(runs["two-by-four"]), atol=1e-5)


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
