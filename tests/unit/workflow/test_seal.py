"""Which files a finished folder answers for, and which damage is seen."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from scalingnote_jax import hashing
from scalingnote_jax.workflow.artefact import (
    partial_folder,
    put_in_place,
    recover,
    remove_folder,
)
from scalingnote_jax.workflow.seal import is_sealed, problem_in, seal
from scalingnote_jax.workflow.workdir import damage, mark_done


def flip(path: Path, keep_times: bool = True) -> None:
    """Changes one bit; size and times of the content stay."""
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    if keep_times:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def make(folder: Path) -> Path:
    (folder / "in").mkdir(parents=True)
    (folder / "a").write_text("a")
    (folder / "in" / "b").write_text("bb")
    return folder


@pytest.mark.parametrize("name", ["a", "in/b"])
def test_one_bit_is_seen_though_size_and_time_are_the_same(name: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "x")
    seal(folder)
    assert problem_in(folder) == ""
    flip(folder / name)
    assert problem_in(folder) == f"{name} is damaged: its SHA-256 differs from the manifest's"


def test_a_list_that_is_gone_cut_or_names_other_places(tmp_path: Path) -> None:
    folder = make(tmp_path / "x")
    mark_done(folder, "i", "o")
    path = folder / "files-0-of-1.json"
    whole = json.loads(path.read_text())
    for files in ({"../../etc/passwd": whole["files"]["a"]}, {"a": {"bytes": 1}}, []):
        path.write_text(json.dumps({"files": files}))
        assert damage(folder).startswith("the list of its files is damaged")
    path.unlink()
    assert damage(folder) == "the list of its files is gone"


def test_a_link_is_damage_even_to_the_same_content(tmp_path: Path) -> None:
    folder = make(tmp_path / "x")
    seal(folder)
    (folder / "in" / "b").rename(tmp_path / "elsewhere")
    (folder / "in" / "b").symlink_to(tmp_path / "elsewhere")
    assert problem_in(folder) == "in/b is a link, which no step writes"


def test_processes_seal_together_and_all_must_have(tmp_path: Path) -> None:
    folder = make(tmp_path / "x")
    seal(folder, (1, 2))
    assert not is_sealed(folder)
    seal(folder, (0, 2))
    assert problem_in(folder) == ""
    flip(folder / "in" / "b")
    assert problem_in(folder, share=(0, 2)) == ""
    assert problem_in(folder, share=(1, 2)).startswith("in/b is damaged")


def test_of_checkpoints_the_newest_counts(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    for step in ("9", "10"):
        seal(make(folder / "checkpoints" / step))
    mark_done(folder, "i", "o")
    flip(folder / "checkpoints" / "9" / "a")
    assert damage(folder) == ""
    flip(folder / "checkpoints" / "10" / "a")
    assert damage(folder).startswith("checkpoints/10: a is damaged")


def test_a_step_inside_keeps_its_own_files(tmp_path: Path) -> None:
    folder = make(tmp_path / "x")
    mark_done(make(folder / "refined"), "i", "o")
    mark_done(folder, "i", "o")
    flip(folder / "refined" / "a")
    assert damage(folder) == ""
    assert damage(folder / "refined").startswith("a is damaged")


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, reads = tmp_path / "a", []
    path.write_bytes(b"x" * 1000)
    os.utime(path, ns=(0, 0))
    monkeypatch.setattr(hashing, "_SETTLED_SECS", -1.0)  # the file was made just now
    digest = hashing.hashlib.file_digest
    monkeypatch.setattr(
        hashing.hashlib, "file_digest", lambda *given: reads.append(1) or digest(*given)
    )
    first = hashing.file_hash(path)
    assert (hashing.file_hash(path), len(reads)) == (first, 1)
    hashing._known.clear()
    hashing._loaded.clear()
    assert (hashing.file_hash(path), len(reads)) == (first, 1), "another process of this machine"
    assert (hashing.file_hash(path, fresh=True), len(reads)) == (first, 2)
    path.write_bytes(b"y" * 1000)
    assert hashing.file_hash(path) != first


def test_a_kill_between_two_renames_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "x")
    partial = partial_folder(folder)
    (partial / "a").write_text("new")
    rename, calls = Path.rename, []

    def killed(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        put_in_place(partial, folder)
    monkeypatch.undo()
    assert not folder.exists()
    recover(folder)
    assert (folder / "a").read_text() == "a"
    put_in_place(partial, folder)
    assert (folder / "a").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x"]


def test_a_folder_is_removed_marker_and_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "x")
    mark_done(folder, "i", "o")

    calls: list[object] = []
    rmtree = shutil.rmtree

    def remove(*given: object, **more: object) -> None:
        if calls:
            raise KeyboardInterrupt
        calls.append(rmtree(*given, **more))  # type: ignore[arg-type,func-returns-value]

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", remove)
        with pytest.raises(KeyboardInterrupt):
            remove_folder(folder)
    assert not folder.exists()
