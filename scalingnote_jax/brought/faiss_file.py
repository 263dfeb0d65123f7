"""The vectors in a FAISS index file: those of a flat or an IVF-flat index, which keep them as they
are. Quantised kinds do not. The file is memory-mapped. Not for searching with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scalingnote_jax.errors import bad_input

_BLOCK = 32_768  # rows at a time
Opened = tuple[str, list[str], int, Callable[[], Iterator[np.ndarray]]]


def faiss_vectors(path: Path, names: list[str] | None) -> Opened:
    """The file's path, the ids of its rows, D, and the rows in that order, [b, D] float32 at a
    time.

    Args:
        names: the id behind each number that the index answers with; None: the numbers themselves.

    Raises:
        UserError: faiss is not installed, the file is none of these indexes, or a number has no
            name.
    """
    try:
        import faiss
    except ImportError as e:
        given, fix = "FAISS is not installed", "pip install faiss-cpu"
        raise bad_input(str(path), given, "the library that reads it", fix) from e
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as e:
        given = f"cannot be read ({str(e).splitlines()[0][:100]})"
        raise bad_input(str(path), given, "an index as FAISS writes it", "copy it again") from e
    numbers, flat = None, faiss.downcast_index(index)
    if isinstance(flat, faiss.IndexIDMap | faiss.IndexIDMap2):
        numbers = faiss.vector_to_array(flat.id_map)
        flat = faiss.downcast_index(flat.index)
    if isinstance(flat, faiss.IndexIVFFlat):
        lists = flat.invlists
        stored = [_list_ids(faiss, lists, i) for i in range(flat.nlist)]
        rows = np.concatenate(stored)
        numbers = rows if numbers is None else numbers[rows]
        blocks = partial(_of_lists, faiss, flat, index)
    elif isinstance(flat, faiss.IndexFlat):
        numbers = np.arange(flat.ntotal) if numbers is None else numbers
        blocks = partial(_of_flat, flat, index)
    else:
        kind = type(flat).__name__
        expected = "IndexFlat or IndexIVFFlat: others keep no exact vectors"
        raise bad_input(str(path), kind, expected, "name the vectors that it was built from")
    if not index.ntotal:
        raise bad_input(str(path), "no vectors", "at least one", "name another file")
    return str(path), _named(path, numbers, names), flat.d, blocks


def _named(path: Path, numbers: np.ndarray, names: list[str] | None) -> list[str]:
    if names is None:
        return [str(number) for number in numbers.tolist()]
    if len(names) != len(numbers) or int(numbers.max()) >= len(names) or int(numbers.min()) < 0:
        given = f"{len(numbers)} vectors with numbers up to {int(numbers.max())}, {len(names)} ids"
        raise bad_input(str(path), given, "an id for each number", "check which file is cut")
    return [names[number] for number in numbers.tolist()]


def _list_ids(faiss: Any, lists: Any, number: int) -> np.ndarray:
    size = lists.list_size(number)
    if not size:
        return np.empty(0, np.int64)
    return faiss.rev_swig_ptr(lists.get_ids(number), size).copy()


def _of_lists(faiss: Any, index: Any, owner: Any) -> Iterator[np.ndarray]:
    """`owner`: the whole, whose memory this is: it goes when nobody has it."""
    lists = index.invlists
    for number in range(index.nlist):
        if size := lists.list_size(number):
            codes = faiss.rev_swig_ptr(lists.get_codes(number), size * index.code_size)
            yield codes.view(np.float32).reshape(size, index.d).copy()


def _of_flat(index: Any, owner: Any) -> Iterator[np.ndarray]:
    """`owner`: as for `_of_lists`."""
    for start in range(0, index.ntotal, _BLOCK):
        yield index.reconstruct_n(start, min(_BLOCK, index.ntotal - start))
