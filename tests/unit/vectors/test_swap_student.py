"""Any student of the teacher works on the index as it is; one of another teacher is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import scalingnote_jax
from scalingnote_jax.cli import main
from scalingnote_jax.errors import UserError
from scalingnote_jax.hashing import content_hash, file_hash
from scalingnote_jax.vectors.pairing import Student
from scalingnote_jax.workflow.workdir import output_of

TEXTS = ["amber topic0", "topic7 quartz", "delta"]
REFUSED = "a student of another teacher"


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): file_hash(path) for path in files}


@pytest.fixture(scope="module")
def narrow_config(tiny_config: Path) -> Path:
    """The tiny config with a student of half the width and two layers instead of one."""
    text = tiny_config.read_text()
    other = "replace(shape, num_layers=2, hidden_size=16)"
    assert text.count("replace(shape, num_layers=1)") == 1
    path = tiny_config.with_name("narrow.py")
    path.write_text(text.replace("replace(shape, num_layers=1)", other))
    return path


@pytest.fixture(scope="module")
def narrow(finished: Path, narrow_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir with the data, vectors and teacher of `finished` and another student of it."""
    workdir = tmp_path_factory.mktemp("narrow") / "work"
    for name in ("data", "teacher"):
        shutil.copytree(finished / name, workdir / name)
    assert main(["distill", str(narrow_config), f"--workdir={workdir}"]) == 0
    return workdir


@pytest.fixture(scope="module")
def stranger(finished: Path, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir whose teacher, and so its student, began from another seed."""
    workdir = tmp_path_factory.mktemp("stranger") / "work"
    shutil.copytree(finished / "data", workdir / "data")
    for verb in ("train", "distill"):
        assert main([verb, str(tiny_config), f"--workdir={workdir}", "--seed=1"]) == 0
    return workdir


@pytest.mark.slow
def test_the_checkpoint_names_its_teacher_and_its_tower(finished: Path, narrow: Path) -> None:
    own, other = (Student.read(workdir / "student", "distill") for workdir in (finished, narrow))
    assert own.teacher == other.teacher == output_of(finished / "teacher", "train")
    assert (own.tower.shape.hidden_size, own.tower.shape.num_layers) == (32, 1)
    assert (other.tower.shape.hidden_size, other.tower.shape.num_layers) == (16, 2)


@pytest.mark.slow
def test_two_students_share_an_index(
    finished: Path, narrow: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hashes(finished / "index")
    own = scalingnote_jax.Searcher.open(finished)
    other = scalingnote_jax.Searcher.open(finished, student=narrow)
    folder = scalingnote_jax.Searcher.open(finished, student=narrow / "student")
    assert other.search(TEXTS) == folder.search(TEXTS) != own.search(TEXTS)
    vectors = scalingnote_jax.load(narrow).encode_queries(TEXTS)
    np.testing.assert_array_equal(other.model.encode_queries(TEXTS), vectors)
    found = own.search(TEXTS, k=3), other.search(TEXTS, k=3)
    assert all(len(hits) == 3 for student in found for hits in student)
    assert main(["search", str(finished), TEXTS[0], f"--student={narrow}", "-k", "2"]) == 0
    assert found[1][0][0].id in capsys.readouterr().out
    assert hashes(finished / "index") == before


@pytest.mark.slow
def test_a_student_is_copied_into_another_workdir(
    finished: Path, narrow: Path, narrow_config: Path, tmp_path: Path
) -> None:
    workdir = Path(shutil.copytree(finished, tmp_path / "work"))
    shutil.rmtree(workdir / "student")
    shutil.copytree(narrow / "student", workdir / "student")
    before = hashes(workdir / "index")
    copied = scalingnote_jax.Searcher.open(workdir)
    named = scalingnote_jax.Searcher.open(finished, student=narrow)
    assert copied.search(TEXTS) == named.search(TEXTS)
    out = tmp_path / "out"
    words = ["--format=sentence-transformers", "--side=both"]
    assert main(["export", str(workdir), str(out), *words]) == 0
    # Evaluated with its own config; no other step is done again.
    assert main(["run", str(narrow_config), f"--workdir={workdir}", "--overwrite"]) == 0
    assert hashes(workdir / "index") == before
    assert hashes(workdir / "student") == hashes(narrow / "student")
    rows = json.loads((workdir / "eval" / "metrics.json").read_text())["rows"]
    sizes = {row["system"]: row["params_non_embedding"] for row in rows if row["search"] == "scann"}
    first = json.loads((finished / "eval" / "metrics.json").read_text())["rows"]
    old = {row["system"]: row["params_non_embedding"] for row in first if row["search"] == "scann"}
    assert sizes["teacher"] == old["teacher"]
    assert sizes["student"] != old["student"]


def test_a_workdir_that_only_answers_needs_no_teacher(finished: Path, tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns("teacher", "eval")
    workdir = Path(shutil.copytree(finished, tmp_path / "work", ignore=ignore))
    found = scalingnote_jax.Searcher.open(workdir).search(TEXTS)
    assert found == scalingnote_jax.Searcher.open(finished).search(TEXTS)


@pytest.mark.slow
def test_a_student_of_another_teacher_is_refused(
    finished: Path,
    stranger: Path,
    tiny_config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UserError, match=REFUSED):
        scalingnote_jax.Searcher.open(finished, student=stranger)
    with pytest.raises(UserError, match=REFUSED):
        scalingnote_jax.load(finished, student=stranger / "student")
    workdir = Path(shutil.copytree(finished, tmp_path / "work"))
    shutil.rmtree(workdir / "student")
    shutil.copytree(stranger / "student", workdir / "student")
    before = hashes(workdir)
    routed = ["--format=sentence-transformers", "--side=both"]
    for words in (
        ["search", str(workdir), TEXTS[0]],
        ["eval", str(tiny_config), f"--workdir={workdir}"],
        ["export", str(workdir), str(tmp_path / "out"), *routed],
    ):
        capsys.readouterr()
        assert main(words) == 2, words
        *_, line = capsys.readouterr().err.strip().splitlines()
        assert line.startswith(f"scalingnote: {workdir / 'student'}: {REFUSED}")
    assert hashes(workdir) == before


def test_what_is_not_a_described_student_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere/student: not there or not finished"):
        scalingnote_jax.load(finished, student=tmp_path / "nowhere")
    folder = Path(shutil.copytree(finished / "student", tmp_path / "old"))
    for path in folder.glob("checkpoints/*/meta/metadata"):
        meta = json.loads(path.read_text())
        del meta["teacher"], meta["own_hash"]
        meta["own_hash"] = content_hash(meta)
        path.write_text(json.dumps(meta))
    with pytest.raises(UserError, match="does not say which teacher it learned from"):
        scalingnote_jax.load(finished, student=folder)
