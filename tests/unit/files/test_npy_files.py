"""Arrays of strangers: numbers alone, whole, and never unpickled."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from scalingnote_jax.errors import UserError
from scalingnote_jax.files.npy_files import npy_header, read_npy, read_npz


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('unpickled')",))


def test_what_numpy_writes_is_read(tmp_path: Path) -> None:
    path, rows = tmp_path / "x.npy", np.arange(6, dtype=np.float32).reshape(3, 2)
    for array in (rows, rows[:0], np.float32(1.5)):
        np.save(path, array)
        for mapped in (False, True):
            np.testing.assert_array_equal(read_npy(path, "", mapped=mapped), array)
    np.save(path, rows)
    assert npy_header(path, "") == (np.dtype(np.float32), (3, 2))
    with pytest.raises(UserError, match=r"an array \[3, 2\] of float32; expected 1 axes of int64"):
        read_npy(path, "", np.int64, 1)


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.array([Bomb()], object), allow_pickle=True)
    with pytest.raises(UserError, match=r"x.npy: cannot be read \(an array of object"):
        read_npy(path, "")
    np.savez(tmp_path / "x.npz", a=np.array([Bomb()], object))
    with pytest.raises(UserError, match="an array of object"):
        read_npz(tmp_path / "x.npz", "", {"a": (np.int32, 1)})
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match="cannot be read"):
        read_npy(path, "")


def test_more_or_less_than_the_header_says(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.arange(6))
    whole = path.read_bytes()
    for content in (whole[:-1], whole + b"x", whole.replace(b"(6,)", b"(9,)")):
        path.write_bytes(content)
        with pytest.raises(UserError, match="bytes of numbers, where its header says"):
            read_npy(path, "")


def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, a=np.zeros(10**7, np.int32))
    with pytest.raises(UserError, match=r"a\.npy is packed"):
        read_npz(path, "", {"a": (np.int32, 1)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("b.npy", b"")
    with pytest.raises(UserError, match=r"it holds b\.npy"):
        read_npz(path, "", {"a": (np.int32, 1)})
