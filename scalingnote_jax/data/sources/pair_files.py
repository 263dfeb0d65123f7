"""Rows of JSONL and Parquet files for `pairs.py`.

`--data.path` is one file, whose rows are then cut into splits, or a folder with `train`, `dev` (or
`validation`) and `test` under these names: `train.jsonl`, `train.jsonl.gz` or `train.parquet`, or
in numbered parts such as `train-00000-of-00002.parquet`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.sources.base import SPLIT_NAMES
from scalingnote_jax.data.sources.lines import read_objects
from scalingnote_jax.data.sources.pairs import Row, Rows, negative_names
from scalingnote_jax.data.sources.records import field_of
from scalingnote_jax.errors import bad_input
from scalingnote_jax.hashing import content_hash, file_hash

_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
_BATCH_ROWS = 1024


def file_rows(cfg: DataConfig) -> Rows:
    """The rows of JSONL or Parquet files. Of Parquet files only the columns with queries, positives
    and negatives are read.

    Raises:
        UserError: there is no such file.
    """
    files = _find(cfg.path)

    def read(paths: list[Path]) -> Iterator[Row]:
        for path in paths:
            yield from _parquet(cfg, path) if path.suffix == ".parquet" else read_objects(path)

    def fingerprint() -> str:
        return content_hash([[split, *map(file_hash, paths)] for split, paths in files.items()])

    return Rows({split: partial(read, paths) for split, paths in files.items()}, fingerprint)


def _find(path: str) -> dict[str, list[Path]]:
    place = Path(path)
    if place.is_file() and place.name.endswith(_SUFFIXES):
        return {"train": [place]}
    found: dict[str, list[Path]] = {}
    if path and place.is_dir():
        for split, names in SPLIT_NAMES.items():
            patterns = (
                f"{name}{part}{end}"
                for name in names
                for end in _SUFFIXES
                for part in ("", "-[0-9]*")
            )
            chosen = next(filter(None, (sorted(place.glob(p)) for p in patterns)), None)
            if chosen:
                found[split] = chosen
    if not found:
        raise bad_input(
            "--data.path",
            f"no rows in {path!r}",
            f"a file ({', '.join(_SUFFIXES)}), or a folder with train.jsonl, train.parquet, …",
            "name one, or rename the files",
        )
    return found


def _parquet(cfg: DataConfig, path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        _check_footer(path)
        with pyarrow.parquet.ParquetFile(path) as file:
            there = dict.fromkeys(file.schema_arrow.names)
            names = [cfg.query_field, cfg.positive_field, *negative_names(cfg, there)]
            for name in names:
                field_of(str(path), there, name)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=names):
                columns = dict(zip(batch.schema.names, batch.columns, strict=True))
                for i in range(batch.num_rows):
                    number += 1
                    where = f"{path}:{number}"
                    yield where, {name: _plain(where, columns[name][i]) for name in columns}
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
        given = f"the file cannot be read on from here ({error})"
        fix = "copy or write it again"
        raise bad_input(f"{path}:{number + 1}", given, "a whole Parquet file", fix) from None


def _check_footer(path: Path) -> None:
    """The footer says its own length, and the reader takes so much memory."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        end = file.read()
    if end[4:] != b"PAR1" or int.from_bytes(end[:4], "little") > size - 12:
        raise OSError("its end is not that of a whole file")


def _plain(where: str, value: Any) -> Any:
    """A cell as Python has it."""
    try:
        return value.as_py()
    except UnicodeDecodeError:
        given, fix = "a text that is not UTF-8", "write the file again with UTF-8 texts"
        raise bad_input(where, given, "UTF-8", fix) from None
