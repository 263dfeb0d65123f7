"""Rows of a TFDS dataset that is built here: found by folder and by name, without TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from source_errors import said_of
from tensorflow_datasets.core.utils import file_utils

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.sources import SPLITS, open_source

_TEXT = tfds.features.Text
ROWS = [
    {"query": "sleepy", "positive": ["A cat.", "Été 猫."], "negative_1": "A dog.", "unread": 1},
    {"query": "loud", "positive": ["A dog."], "negative_1": "A cat.", "unread": 2},
]


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Asks no server."""


class TinyPairs(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """`ROWS`, and whatever the second split is called."""

    name = "tiny_pairs"
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, splits: dict[str, list[dict[str, Any]]], **kwargs: Any):
        self._splits = splits
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "query": _TEXT(),
            "positive": tfds.features.Sequence(_TEXT()),
            "negative_1": _TEXT(),
            "unread": np.int32,
        }
        return _Info(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Any]]]:
        return {name: iter(enumerate(rows)) for name, rows in self._splits.items()}

    def _generate_examples(self) -> Iterator[tuple[int, Any]]:
        raise NotImplementedError


def build(folder: Path, splits: dict[str, list[dict[str, Any]]]) -> Path:
    """Builds the dataset below `folder`; returns its own folder."""
    tfds.disable_progress_bar()
    builder = TinyPairs(splits, data_dir=folder)
    builder.download_and_prepare(download_dir=folder / "downloads")
    return Path(builder.data_path)


def from_tfds(path: Path | str) -> DataConfig:
    return DataConfig(source="tfds", path=str(path))


def test_rows_are_found_by_folder_and_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build(tmp_path, {"train": ROWS[:1], "validation": ROWS[1:]})
    monkeypatch.setattr(file_utils, "_REGISTERED_DATA_DIRS", {epath.Path(tmp_path)})
    for path in (folder, "tiny_pairs", "tiny_pairs:1.0.0"):
        source = open_source(from_tfds(path))
        text = {d.id: d.text for d in source.documents()}
        assert list(text.values()) == ["A cat.", "Été 猫.", "A dog."]
        assert [q.text for q in source.queries()] == ["sleepy", "loud"]
        found = [
            [{text[d]: g for d, g in grades.items()} for grades in source.qrels(split).values()]
            for split in SPLITS
        ]
        train = {"A cat.": 1, "Été 猫.": 1, "A dog.": 0}
        assert found == [[train], [{"A dog.": 1, "A cat.": 0}], []]


def test_one_split_is_cut_and_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    rows = [ROWS[0] | {"query": f"query {i}", "positive": [f"text {i}"]} for i in range(20)]
    first = open_source(from_tfds(build(tmp_path / "a", {"train": rows})))
    assert sum(len(first.qrels(split)) for split in SPLITS) == 20
    assert len(first.qrels("train")) < 20
    again = open_source(from_tfds(tmp_path / "a/tiny_pairs/1.0.0"))
    assert again.fingerprint() == first.fingerprint()
    other = open_source(from_tfds(build(tmp_path / "b", {"train": rows[:19]})))
    assert other.fingerprint() != first.fingerprint()


def test_bad_rows_are_named_by_split_and_row(tmp_path: Path) -> None:
    for i, (change, message) in enumerate(
        (
            ({"query": " "}, "tiny_pairs/1.0.0 train:2: 'query' is empty"),
            ({"positive": []}, "tiny_pairs/1.0.0 train:2: no text in 'positive'"),
            ({"query": b"\xe9"}, "tiny_pairs/1.0.0 train:2: a text that is not UTF-8"),
        )
    ):
        folder = build(tmp_path / str(i), {"train": [ROWS[0], ROWS[1] | change]})
        assert said_of(from_tfds(folder)).startswith(message)
    folder = build(tmp_path / "good", {"train": ROWS})
    cfg = DataConfig(source="tfds", path=str(folder), positive_field="pos")
    assert "train:1: no field 'pos' (fields: " in said_of(cfg)
    cfg = DataConfig(source="tfds", path=str(folder), query_field="unread")
    assert "train:1: the field 'unread' is of type int" in said_of(cfg)


def test_what_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_utils, "_REGISTERED_DATA_DIRS", {epath.Path(tmp_path)})
    for path in ("nowhere/at:1.0.0", "", "not a name", tmp_path):
        said = said_of(from_tfds(path))
        assert said.startswith(f"--data.path: {str(path)!r} cannot be opened (")
        assert "--file_format=array_record" in said
    folder = build(tmp_path, {"unlabelled": ROWS})
    assert f"--data.path: {str(folder)!r} has the splits unlabelled; " in said_of(from_tfds(folder))
    info = folder / "dataset_info.json"
    whole = json.loads(info.read_text())
    info.write_text(json.dumps(whole | {"fileFormat": "tfrecord"}))
    said = said_of(from_tfds(folder))
    assert f"{str(folder)!r} is stored as tfrecord; expected array_record" in said
    assert (
        f"tfds convert_format --out_file_format=array_record --dataset_version_dir={folder}" in said
    )
    info.write_text("{")
    assert f"--data.path: {str(folder)!r} cannot be opened (ParseError" in said_of(
        from_tfds(folder)
    )


def test_damaged_records(tmp_path: Path) -> None:
    folder = build(tmp_path, {"train": ROWS})
    (records,) = folder.glob("*array_record*")
    content = bytearray(records.read_bytes())
    content[100] ^= 0xFF
    records.write_bytes(content)
    assert f"{folder} train:1: damaged (" in said_of(from_tfds(folder))
