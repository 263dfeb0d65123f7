"""A tower that is kept ready gives what its checkpoint gives, and is made again when it must be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import scalingnote_jax
from scalingnote_jax.models.weights.restore import Checkpoints
from scalingnote_jax.retrieval.served_model import served_mesh
from scalingnote_jax.vectors.encoder import load_encoder
from scalingnote_jax.vectors.pairing import _newest_meta, run_towers, served_config
from scalingnote_jax.workflow.workdir import Workdir

TEXTS = ["topic3 amber", "topic7", "basin"]


@pytest.fixture
def work(finished: Path, tmp_path: Path) -> Path:
    work = Path(shutil.copytree(finished, tmp_path / "work"))
    shutil.rmtree(work / "student" / "kept", ignore_errors=True)
    return work


def from_checkpoint(work: Path) -> np.ndarray:
    paths = Workdir(work)
    config = served_config(paths)
    given = config.teacher, config.distill.student, config.seed, config.stages, paths
    encoder = load_encoder(run_towers(*given).get("student", "query"), config.encode, served_mesh())
    return encoder.unit(encoder.encode(TEXTS))


def test_it_is_kept_once_and_gives_the_same_vectors(work: Path) -> None:
    wanted = from_checkpoint(work)
    first = scalingnote_jax.load(work)
    np.testing.assert_array_equal(first.encode_queries(TEXTS), wanted)
    kept = work / "student" / "kept"
    stamps = {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert {"done.json", "tower.json", "tokenizer.json", "000.npy"} <= stamps.keys()
    second = scalingnote_jax.load(work)
    np.testing.assert_array_equal(second.encode_queries(TEXTS), wanted)
    assert second.query_encoder.contract == first.query_encoder.contract
    assert {path.name: path.stat().st_mtime_ns for path in kept.iterdir()} == stamps


def test_damage_and_another_tower_make_it_anew(work: Path) -> None:
    wanted = from_checkpoint(work)
    scalingnote_jax.load(work).encode_queries(TEXTS)
    kept = work / "student" / "kept"
    weight = np.load(kept / "000.npy")
    np.save(kept / "000.npy", weight + 1)
    np.testing.assert_array_equal(scalingnote_jax.load(work).encode_queries(TEXTS), wanted)
    np.testing.assert_array_equal(np.load(kept / "000.npy"), weight)

    marker = work / "student" / "done.json"
    other = json.loads(marker.read_text()) | {"output": "another student"}
    marker.write_text(json.dumps(other))
    before = (kept / "done.json").read_text()
    scalingnote_jax.load(work).encode_queries(TEXTS)
    assert (kept / "done.json").read_text() != before


def test_a_workdir_that_cannot_be_written_serves_all_the_same(work: Path) -> None:
    wanted = from_checkpoint(work)
    (work / "student" / "kept").write_text("a file where the folder would be")
    np.testing.assert_array_equal(scalingnote_jax.load(work).encode_queries(TEXTS), wanted)


def test_what_a_checkpoint_says_is_read_as_orbax_reads_it(work: Path) -> None:
    folder = work / "student" / "checkpoints"
    checkpoints = Checkpoints(folder)
    step = checkpoints.latest_step()
    assert step is not None
    assert _newest_meta(folder) == checkpoints.meta(step)
    (folder / str(step) / "meta" / "metadata").write_text("{")
    with pytest.raises(scalingnote_jax.errors.UserError, match="its description is damaged"):
        _newest_meta(folder)
