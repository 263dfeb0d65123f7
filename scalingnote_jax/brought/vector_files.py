"""Vectors that others have made, as files: which vectors, with which ids, block by block.

    NAME.npy              [n, D]; ids beside it as NAME.ids.{txt,json,npy} or ids.{txt,json,npy}
    FOLDER                of such .npy parts in the order of their names, with ids.{txt,json,npy}
                          of Parquet files
                          of vectors that this project has made (embeddings/teacher-doc)
    NAME.parquet          columns `id` and `vector`
    NAME.faiss, .index    flat or IVF-flat, also with an id map (`faiss_file.py`)

Nothing is held beside the ids and a block of rows. Whether rows are fit for search is decided where
they are taken in: `take_vectors.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scalingnote_jax.errors import bad_input
from scalingnote_jax.files.guard import reading
from scalingnote_jax.files.typed_json import parse
from scalingnote_jax.hashing import content_hash, file_hash
from scalingnote_jax.vectors.store import VectorStore
from scalingnote_jax.workflow.artefact import MANIFEST

BLOCK_VALUES = 2**22  # numbers read at once
IDS = ("txt", "json", "npy")
FORMS = "an .npy file or a folder of them with ids, Parquet with id and vector, or a FAISS index"


@dataclass(frozen=True)
class VectorFile:
    """Vectors in files.

    Attributes:
        place: the file or the folder, for messages.
        ids: of the rows, in order.
        dim: D.
        blocks: the rows in order, [b, D] float32 each.
    """

    place: str
    ids: list[str]
    dim: int
    blocks: Callable[[], Iterator[np.ndarray]]


def open_vectors(name: str, field: str) -> VectorFile:
    """The vectors at a path.

    Args:
        field: the option that names it.

    Raises:
        UserError: nothing is there, it is of another form, or ids and rows are not as many.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        found = _folder(path, field)
    elif not path.is_file():
        raise bad_input(field, f"{name!r} is not there", FORMS, "check the path")
    elif path.suffix == ".npy":
        found = _arrays([path], _ids_beside(path))
    elif path.suffix == ".parquet":
        found = _parquet([path])
    elif path.suffix in (".faiss", ".index"):
        from scalingnote_jax.brought.faiss_file import faiss_vectors

        ids = _ids_file(path)
        found = VectorFile(*faiss_vectors(path, read_ids(ids) if ids else None))
    else:
        raise bad_input(field, f"{name!r}", FORMS, "convert it to one of these")
    _check_unique(found)
    return found


def files_hash(name: str, field: str) -> str:
    """The content hash of the files of vectors at a path, each file hashed once in a process.

    Raises:
        UserError: nothing is there.
    """
    path = Path(name).expanduser()
    if not path.exists():
        raise bad_input(field, f"{name!r} is not there", FORMS, "check the path")
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    if path.is_file() and (ids := _ids_file(path)):
        files.append(ids)
    hashes = [(p.name, _hash_at(p, p.stat().st_size, p.stat().st_mtime_ns)) for p in files]
    return content_hash(hashes)


def read_ids(path: Path) -> list[str]:
    """Ids in a file: one on each line, a JSON list, or an array.

    Raises:
        UserError: it is none of these, or an id is empty.
    """
    ids: Iterable[Any]
    with reading(path, "ids: texts or whole numbers", "write it again"):
        if path.suffix == ".npy":
            ids = np.load(path, mmap_mode="r", allow_pickle=False).tolist()
        elif path.suffix == ".json":
            ids = parse(path.read_bytes(), [object])
        else:
            ids = path.read_text(encoding="utf-8").splitlines()
        names = [name if isinstance(name, str) else _number(name) for name in ids]
    empty = next((row for row, name in enumerate(names) if not name.strip()), None)
    if empty is not None:
        raise bad_input(str(path), f"an empty id in row {empty}", "an id for each row", "fill it")
    return names


def _number(name: Any) -> str:
    if isinstance(name, bool) or not isinstance(name, int):
        raise TypeError(f"an id {name!r}")
    return str(name)


def _folder(path: Path, field: str) -> VectorFile:
    if (path / MANIFEST).is_file():
        store = VectorStore.open(path)
        blocks = functools.partial(_sliced, store.on_disk())
        return VectorFile(str(path), store.ids, store.dim, blocks)
    if tables := sorted(path.glob("*.parquet")):
        return _parquet(tables)
    arrays = [p for p in sorted(path.glob("*.npy")) if p.name != "ids.npy"]
    if not arrays:
        raise bad_input(field, f"{str(path)!r} has no vectors", FORMS, "name another folder")
    return _arrays(arrays, _ids_beside(path / "x"))


def _sliced(rows: Any) -> Iterator[np.ndarray]:
    size = max(1, BLOCK_VALUES // rows.shape[1])
    for start in range(0, rows.shape[0], size):
        yield np.asarray(rows[start : start + size], np.float32)


def _ids_file(path: Path) -> Path | None:
    names = [f"{stem}.{kind}" for stem in (f"{path.stem}.ids", "ids") for kind in IDS]
    return next((path.with_name(n) for n in names if path.with_name(n).is_file()), None)


def _ids_beside(path: Path) -> list[str]:
    found = _ids_file(path)
    if found is None:
        expected = f"{path.stem}.ids.txt or ids.txt (.json, .npy), an id for each row"
        raise bad_input(str(path.parent), "no ids beside the vectors", expected, "add it")
    return read_ids(found)


def _arrays(paths: list[Path], ids: list[str]) -> VectorFile:
    parts = [_array(path) for path in paths]
    dim, rows = parts[0].shape[1], sum(map(len, parts))
    for path, part in zip(paths, parts, strict=True):
        if part.shape[1] != dim:
            given = f"vectors of {part.shape[1]} numbers, and of {dim} in {paths[0].name}"
            raise bad_input(str(path), given, "one width", "leave out what belongs elsewhere")
    place = str(paths[0] if len(paths) == 1 else paths[0].parent)
    if rows != len(ids):
        given = f"{rows} vectors and {len(ids)} ids"
        raise bad_input(place, given, "an id for each vector", "check which file is cut")

    def blocks() -> Iterator[np.ndarray]:
        for part in parts:
            yield from _sliced(part)

    return VectorFile(place, ids, dim, blocks)


def _array(path: Path) -> np.ndarray:
    with reading(path, "an array of numpy.save", "save it again"):
        part = np.load(path, mmap_mode="r", allow_pickle=False)
    if part.ndim != 2 or part.dtype.kind != "f" or not len(part):
        given = f"an array of shape {part.shape}, {part.dtype}"
        raise bad_input(str(path), given, "[n, D] of floats", "save it again")
    return part


def _parquet(paths: list[Path]) -> VectorFile:
    from scalingnote_jax.brought.parquet_columns import keyed_vectors, read_column

    ids = [name for path in paths for name in read_column(path, "id")]
    first = next(keyed_vectors(paths[0], "vector"))
    return VectorFile(
        str(paths[0] if len(paths) == 1 else paths[0].parent),
        ids,
        first.shape[1],
        lambda: (block for path in paths for block in keyed_vectors(path, "vector")),
    )


def _check_unique(found: VectorFile) -> None:
    if len(set(found.ids)) == len(found.ids):
        return
    seen: set[str] = set()
    for row, name in enumerate(found.ids):
        if name in seen:
            given = f"id {name!r} twice, the second time in row {row}"
            raise bad_input(found.place, given, "unique ids", "remove the duplicate")
        seen.add(name)


@functools.lru_cache(maxsize=1024)
def _hash_at(path: Path, size: int, time: int) -> str:
    return file_hash(path)
