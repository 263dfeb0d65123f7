"""Steps taken over from other workdirs: what is linked, and what is made anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalingnote_jax.cli import main
from scalingnote_jax.errors import UserError
from scalingnote_jax.workflow.artefact import file_entry, write_manifest
from scalingnote_jax.workflow.reuse import take_over, workdirs
from scalingnote_jax.workflow.workdir import Workdir, is_done, mark_done


def step(folder: Path, inputs: str, content: str = "x") -> Path:
    """A finished step."""
    folder.mkdir(parents=True)
    (folder / "file").write_text(content)
    mark_done(folder, inputs, "output", 1.0)
    return folder


def test_the_one_with_the_same_inputs_is_linked(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    step(a / "teacher", "one", "of a")
    source = step(b / "teacher", "two", "of b")
    vectors = b / "embeddings" / "teacher-doc"
    vectors.mkdir(parents=True)
    (vectors / "manifest.json").write_text("{}")
    (b / "embeddings" / "student-query").mkdir()
    take_over(c / "teacher", "two", Workdir(c), [a, b, c])
    assert is_done(c / "teacher", "two")
    assert (c / "teacher" / "file").samefile(source / "file")
    assert [p.name for p in (c / "embeddings").iterdir()] == ["teacher-doc"]
    take_over(c / "teacher", "three", Workdir(c), [a, b, c])
    assert is_done(c / "teacher", "two"), "nobody has it: what is there stays"


def test_what_is_damaged_is_not_taken_over(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    (step(a / "teacher", "one", "of a") / "file").write_text("of x")
    take_over(c / "teacher", "one", Workdir(c), [a])
    assert not (c / "teacher").exists()
    whole = step(b / "teacher", "one", "of b")
    vectors = b / "embeddings" / "teacher-doc"
    vectors.mkdir(parents=True)
    (vectors / "ids.json").write_text("[]")
    write_manifest(vectors, {"ids": file_entry(vectors / "ids.json")})
    (vectors / "ids.json").write_text("{}")
    take_over(c / "teacher", "one", Workdir(c), [a, b])
    assert (c / "teacher" / "file").samefile(whole / "file")
    assert not (c / "embeddings").exists()


def test_a_teacher_of_another_round(tmp_path: Path) -> None:
    a, b = Workdir(tmp_path / "a"), Workdir(tmp_path / "b")
    step(a.teacher, "first round")
    take_over(b.at_round(0).teacher, "first round", b, [a.root])
    assert is_done(b.root / "rounds" / "0" / "teacher", "first round")


def test_what_is_done_is_left_alone(tmp_path: Path) -> None:
    a, b = (tmp_path / name for name in "ab")
    step(a / "data", "one", "of a")
    own = step(b / "data", "one", "of b")
    take_over(b / "data", "one", Workdir(b), [a])
    assert (own / "file").read_text() == "of b"


def test_a_workdir_or_a_folder_of_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--reuse: .*expected a workdir, or a folder of workdirs"):
        workdirs(tmp_path)
    for name in ("b", "a", "c"):
        (tmp_path / name).mkdir()
    for name in ("b", "a"):
        (tmp_path / name / "config.json").write_text("{}")
    assert workdirs(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert workdirs(tmp_path / "a") == [tmp_path / "a"]


@pytest.mark.slow
def test_another_student_beside_the_same_teacher(
    finished: Path, tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(tiny_config), f"--workdir={tmp_path / 'w'}", "--distill.duration=3 steps"]
    for verb in ("data", "train", "encode"):
        assert main([verb, *words, f"--reuse={finished}"]) == 0
    err = capsys.readouterr().err
    assert err.count("taken over") == 2  # the vectors came with the teacher
    assert err.count("done already") == 3
    assert main(["distill", *words, f"--reuse={finished}"]) == 0
    assert "encode queries" not in capsys.readouterr().err
