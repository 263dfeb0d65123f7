"""Arrays on disk (.npy, .npz) that somebody else may have written: numbers alone, no pickled
objects, and as many as the file holds, or refused in one line.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scalingnote_jax.errors import bad_input

_HEADER_BYTES = 10_000
_KINDS = "biuf"  # of numbers: no objects, no text, no records


def npy_header(path: Path, fix: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Type and shape of the array in a .npy file, whose size fits them.

    Raises:
        UserError: it is not such a file, or is longer or shorter than its header says.
    """
    try:
        with path.open("rb") as file:
            dtype, shape = _header(file)
            behind = os.fstat(file.fileno()).st_size - file.tell()
    except (OSError, ValueError) as e:
        raise _unreadable(path, e, fix) from e
    if behind != math.prod(shape) * dtype.itemsize:
        given = f"{behind} bytes of numbers, where its header says {list(shape)} of {dtype}"
        raise bad_input(str(path), given, "a whole array", fix)
    return dtype, shape


def read_npy(
    path: Path, fix: str, dtype: type | None = None, ndim: int | None = None, mapped: bool = False
) -> np.ndarray:
    """The array in a .npy file.

    Args:
        dtype, ndim: refuses an array of another type or number of axes.
        mapped: memory-mapped, read-only.

    Raises:
        UserError: as `npy_header`.
    """
    found, shape = npy_header(path, fix)
    if (dtype is not None and found != dtype) or (ndim is not None and len(shape) != ndim):
        wanted = f"{'any number of' if ndim is None else ndim} axes of {np.dtype(dtype or found)}"
        raise bad_input(str(path), f"an array {list(shape)} of {found}", wanted, fix)
    try:
        if mapped and all(shape):
            return np.load(path, mmap_mode="r", allow_pickle=False)
        array: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise _unreadable(path, e, fix) from e
    return array


def read_npz(path: Path, fix: str, wanted: Mapping[str, tuple[type, int]]) -> dict[str, np.ndarray]:
    """The arrays of a .npz file that was written without compression.

    Args:
        wanted: name → type and number of axes; no others may be there.

    Raises:
        UserError: it is not such a file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {m.filename: m for m in archive.infolist()}
            if set(members) != {f"{name}.npy" for name in wanted}:
                raise ValueError(f"it holds {', '.join(sorted(members))[:200]}")
            for member in members.values():
                if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                    raise ValueError(f"{member.filename} is packed")
            return {
                name: _member(archive, members[f"{name}.npy"], dtype, ndim)
                for name, (dtype, ndim) in wanted.items()
            }
    except Exception as e:  # of a broken archive `zipfile` raises a dozen kinds
        raise _unreadable(path, e, fix) from e


def _member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, dtype: type, ndim: int
) -> np.ndarray:
    size = os.stat(archive.filename or "").st_size
    if member.file_size > size:
        raise ValueError(f"{member.filename} of {member.file_size} bytes in a file of {size}")
    with archive.open(member) as file:
        found, shape = _header(file)
        if found != dtype or len(shape) != ndim:
            raise ValueError(f"{member.filename} is {list(shape)} of {found}")
        count = math.prod(shape)
        if count * found.itemsize > member.file_size:
            raise ValueError(f"{member.filename} is cut")
        return np.frombuffer(file.read(count * found.itemsize), found).reshape(shape).copy()


def _header(file: Any) -> tuple[np.dtype[Any], tuple[int, ...]]:
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"version {version} of the format")
    try:
        header = readers[version](file, max_header_size=_HEADER_BYTES)
    except (ValueError, OSError):
        raise
    except Exception as e:  # a header is a Python literal, on which its parser may stumble
        raise ValueError(f"its header cannot be read ({type(e).__name__})") from e
    shape, fortran, dtype = header
    if dtype.kind not in _KINDS or dtype.hasobject or not dtype.isnative:
        raise ValueError(f"an array of {str(dtype)[:40]}")
    if fortran and len(shape) > 1:
        raise ValueError("an array in Fortran's order")
    if any(type(n) is not int or not 0 <= n < 2**48 for n in shape) or len(shape) > 8:
        raise ValueError(f"an array of shape {str(shape)[:60]}")
    return dtype, tuple(shape)


def _unreadable(path: Path, error: Exception, fix: str) -> Exception:
    reason = str(error).partition("\n")[0][:200]
    return bad_input(str(path), f"cannot be read ({reason})", "an array as it was written", fix)
