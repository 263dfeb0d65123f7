"""Columns of a Parquet file: ids or texts, and vectors block by block. A row that is not as the
others is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scalingnote_jax.errors import bad_input

ROWS = 16_384  # at a time
_AGAIN = "copy or write it again"


def read_column(path: Path, name: str) -> list[str]:
    """A column of texts or whole numbers, as texts.

    Raises:
        UserError: the file or the column cannot be read, or a cell is empty.
    """
    import pyarrow

    found: list[str] = []
    for batch in _batches(path, name):
        kind = batch.type
        if not (
            pyarrow.types.is_integer(kind)
            or pyarrow.types.is_string(kind)
            or pyarrow.types.is_large_string(kind)
        ):
            raise bad_input(str(path), f"{name} of {kind}", "texts or whole numbers", _AGAIN)
        cells = [None if cell is None else str(cell) for cell in _plain(path, batch)]
        for row, cell in enumerate(cells, len(found)):
            if cell is None or not cell.strip():
                raise bad_input(str(path), f"an empty {name} in row {row}", "a text", "fill it")
            found.append(cell)
    return found


def keyed_vectors(path: Path, name: str) -> Iterator[np.ndarray]:
    """A column of lists of floats, [b, D] float32 at a time, all of the width of the first row.

    Raises:
        UserError: the file or the column cannot be read, or a row is empty or of another width.
    """
    import pyarrow

    dim, row = 0, 0
    for batch in _batches(path, name):
        lists = (pyarrow.types.is_list, pyarrow.types.is_large_list)
        fixed = pyarrow.types.is_fixed_size_list(batch.type)
        inner = batch.type.value_type if fixed or any(f(batch.type) for f in lists) else None
        if inner is None or not pyarrow.types.is_floating(inner):
            raise bad_input(str(path), f"{name} of {batch.type}", "lists of floats", _AGAIN)
        sizes = np.asarray(batch.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))
        dim = dim or int(sizes[0])
        wrong = np.flatnonzero(sizes != dim)
        if len(wrong) or not dim:
            at = int(wrong[0]) if len(wrong) else 0
            given = f"a vector of {int(sizes[at])} numbers in row {row + at}"
            raise bad_input(str(path), given, f"{dim or 'some'}, as in the first row", _AGAIN)
        values = batch.flatten().to_numpy(zero_copy_only=False)
        yield np.asarray(values, np.float32).reshape(len(batch), dim)
        row += len(batch)


def _batches(path: Path, name: str) -> Iterator[Any]:
    """The column in parts, none of them empty."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if name not in names:
                given = f"no column {name!r} among {', '.join(names[:8])}"
                raise bad_input(str(path), given, f"a column {name!r}", "rename it")
            if not file.metadata.num_rows:
                raise bad_input(str(path), "no rows", "at least one", _AGAIN)
            for batch in file.iter_batches(batch_size=ROWS, columns=[name]):
                if len(batch):
                    yield batch.column(0)
    except (pyarrow.ArrowException, OSError) as e:
        given = f"cannot be read ({str(e)[:100]})"
        raise bad_input(str(path), given, "a whole Parquet file", _AGAIN) from e


def _plain(path: Path, column: Any) -> list[Any]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        raise bad_input(str(path), "a text that is not UTF-8", "UTF-8", _AGAIN) from None
