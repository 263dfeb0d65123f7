"""Rows of a built TFDS dataset for `pairs.py`: `--data.path` is its name, such as
`name/config:1.0.0`, to be found where TFDS keeps its datasets (`$TFDS_DATA_DIR` or
`~/tensorflow_datasets`), or its folder, that of a version.

TensorFlow is not needed, and so only ArrayRecord can be read; and nothing is downloaded: most of
what builds TFDS's datasets does need TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.json_format import ParseError
from tensorflow_datasets.core import read_only_builder

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.sources.base import SPLIT_NAMES
from scalingnote_jax.data.sources.pairs import Row, Rows
from scalingnote_jax.errors import bad_input
from scalingnote_jax.hashing import tree_hash

_READ_ROWS = 1024


def tfds_rows(cfg: DataConfig) -> Rows:
    """The rows of a TFDS dataset. Its splits are `train`, `dev` or `validation`, and `test`.

    Raises:
        UserError: no such dataset, another file format, or none of the splits.
    """
    builder = _builder(cfg.path)
    there = set(builder.info.splits)
    splits = {
        split: partial(_read, builder, next(name for name in names if name in there))
        for split, names in SPLIT_NAMES.items()
        if there.intersection(names)
    }
    if not splits:
        given = f"{cfg.path!r} has the splits {', '.join(sorted(there)) or 'none'}"
        fix = "choose another dataset"
        raise bad_input("--data.path", given, "train, validation or test", fix)
    return Rows(splits, lambda: tree_hash(Path(builder.data_path)))


def _builder(path: str) -> Any:
    folder = Path(path)
    try:
        if path and folder.is_dir():
            builder = tfds.builder_from_directory(folder)
        else:
            builder = read_only_builder.builder_from_files(path)
    except (OSError, ValueError, ParseError) as error:
        given = f"{path!r} cannot be opened ({type(error).__name__}: {str(error)[:200]})"
        expected = "the name of a dataset that TFDS has built, or the folder of one of its versions"
        fix = f"correct it, or build it: tfds build {path or 'NAME'} --file_format=array_record"
        raise bad_input("--data.path", given, expected, fix) from None
    if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        found = builder.info.file_format
        fix = (
            "convert it: tfds convert_format --out_file_format=array_record "
            f"--dataset_version_dir={builder.data_path}"
        )
        given = f"{path!r} is stored as {found.value if found else 'something unknown'}"
        raise bad_input("--data.path", given, "array_record", fix)
    return builder


def _read(builder: Any, split: str) -> Iterator[Row]:
    source = builder.as_data_source(split=split)
    name = builder.info.full_name
    for start in range(0, len(source), _READ_ROWS):
        numbers = range(start, min(start + _READ_ROWS, len(source)))
        try:
            records = source.__getitems__(list(numbers))
        except RuntimeError as error:  # the checksum of a block of records
            given, fix = f"damaged ({error})", "copy or build it again"
            raise bad_input(
                f"{builder.data_path} {split}:{start + 1}", given, "records that are whole", fix
            ) from None
        for number, record in zip(numbers, records, strict=True):
            where = f"{name} {split}:{number + 1}"
            yield where, {field: _plain(where, value) for field, value in record.items()}


def _plain(where: str, value: Any) -> Any:
    """Texts for bytes, lists for sequences; anything else as it is."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            fix = "build the dataset with UTF-8 texts"
            raise bad_input(where, "a text that is not UTF-8", "UTF-8", fix) from None
    if isinstance(value, list | np.ndarray):
        return [_plain(where, part) for part in value]
    return value
