"""MS MARCO's files: both forms of collection and qrels, its own names, all that can be wrong."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from source_errors import said_of

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.sources import Document, Query, open_source
from scalingnote_jax.data.survey import survey

FILES = {
    "collection.tsv": "0\tA cat sleeps all day.\n1\tEte means summer.\n2\tDogs bark.\n",
    "queries.train.tsv": "10\tsleepy animals\n11\tnot judged\n",
    "qrels.train.tsv": "10\t0\t0\t1\n10\t0\t2\t0\n",
    "queries.test.tsv": "20\tloud animals\n",
    "qrels.test.tsv": "20\t0\t2\t3\n",
}


def write(folder: Path, **changes: str) -> DataConfig:
    """The folder with some files in another form: `collection="…"` is of collection.tsv."""
    folder.mkdir(exist_ok=True)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    for name, text in changes.items():
        (folder / f"{name.replace('_', '.')}.tsv").write_text(text)
    return DataConfig(source="msmarco", path=str(folder))


def test_files_are_read_as_they_are_written(tmp_path: Path) -> None:
    source = open_source(write(tmp_path))
    assert list(source.documents()) == [
        Document("0", "", "A cat sleeps all day."),
        Document("1", "", "Ete means summer."),
        Document("2", "", "Dogs bark."),
    ]
    assert list(source.queries()) == [
        Query("10", "sleepy animals"),
        Query("11", "not judged"),
        Query("20", "loud animals"),
    ]
    assert source.qrels("train") == {"10": {"0": 1, "2": 0}}
    assert source.qrels("dev") == {}
    assert source.qrels("test") == {"20": {"2": 3}}


def test_titles_gzip_and_qrels_of_three_columns(tmp_path: Path) -> None:
    cfg = write(tmp_path, qrels_train="10\t0\t1\n10\t2\t0\n", qrels_test="20 2 3\n")
    (tmp_path / "collection.tsv").unlink()
    titled = "0\tCats\tA cat sleeps.\r\n1\t\tNo title.\r\n2\tOnly a title\t\r\n"
    (tmp_path / "collection.tsv.gz").write_bytes(gzip.compress(titled.encode()))
    source = open_source(cfg)
    assert list(source.documents()) == [
        Document("0", "Cats", "A cat sleeps."),
        Document("1", "", "No title."),
        Document("2", "Only a title", ""),
    ]
    assert source.qrels("train") == {"10": {"0": 1, "2": 0}}
    assert source.qrels("test") == {"20": {"2": 3}}


def test_dev_small_is_dev_where_there_is_no_other(tmp_path: Path) -> None:
    small = {"queries_dev_small": "30\tsmall\n", "qrels_dev_small": "30\t0\t0\t1\n"}
    cfg = write(tmp_path, queries_dev="30\tsmall\n31\tlarge\n", **small)
    assert open_source(cfg).qrels("dev") == {"30": {"0": 1}}
    assert [q.id for q in open_source(cfg).queries()] == ["10", "11", "30", "20"]
    (tmp_path / "qrels.dev.tsv").write_text("31\t0\t0\t1\n")
    assert open_source(cfg).qrels("dev") == {"31": {"0": 1}}
    assert [q.id for q in open_source(cfg).queries()] == ["10", "11", "30", "31", "20"]


def test_fingerprint_follows_the_bytes_of_what_is_read(tmp_path: Path) -> None:
    before = open_source(write(tmp_path)).fingerprint()
    (tmp_path / "queries.eval.tsv").write_text("40\tof no split\n")
    assert open_source(write(tmp_path)).fingerprint() == before
    for name in FILES:
        changed = write(tmp_path, **{name[:-4].replace(".", "_"): FILES[name].replace("0", "00")})
        assert open_source(changed).fingerprint() != before, name


def as_bytes(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def remove(*names: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / name).unlink() for name in names]


BAD_INPUT = {
    "no collection": (remove("collection.tsv"), "collection.tsv: no such file"),
    "no qrels": (
        remove("qrels.train.tsv", "qrels.test.tsv"),
        "no qrels.train.tsv, qrels.dev.tsv or qrels.test.tsv",
    ),
    "qrels without queries": (remove("queries.test.tsv"), "queries.test.tsv: no such file"),
    "no tab": (
        as_bytes("collection.tsv", b"0 A cat\n"),
        "collection.tsv:1: 1 columns: '0 A cat'; expected the columns pid text or pid title text",
    ),
    "a tab in a text": (
        as_bytes("collection.tsv", b"0\tA cat\n1\tA\tdog\n"),
        "collection.tsv:2: 3 columns: '1\\tA\\tdog'; expected the columns pid text,",
    ),
    "not UTF-8": (
        as_bytes("collection.tsv", b"0\tA cat\n1\t\xe9t\xe9\n"),
        "collection.tsv:2: byte 0xe9 at column 3 is not UTF-8",
    ),
    "duplicate document": (
        as_bytes("collection.tsv", b"0\tA cat\n0\tA dog\n"),
        "collection.tsv:2: the pid '0' again, first seen on line 1",
    ),
    "an empty id": (as_bytes("collection.tsv", b"\tA cat\n"), "collection.tsv:1: the pid ''"),
    "a long text": (
        as_bytes("collection.tsv", b"0\t" + b"x" * 200_001),
        "collection.tsv:1: a text of 200,001 bytes; expected at most 200,000",
    ),
    "an empty query": (
        as_bytes("queries.train.tsv", b"10\t \n"),
        "queries.train.tsv:1: query '10'",
    ),
    "a query in two files": (
        as_bytes("queries.test.tsv", b"10\tsleepy animals\n"),
        "queries.test.tsv:1: the qid '10' is also in queries.train.tsv",
    ),
    "two columns of qrels": (
        as_bytes("qrels.train.tsv", b"10\t0\n"),
        "qrels.train.tsv:1: 2 columns: '10\\t0'; expected the columns qid pid grade or qid 0 pid",
    ),
    "qrels of both forms": (
        as_bytes("qrels.train.tsv", b"10\t0\t0\t1\n10\t2\t1\n"),
        "qrels.train.tsv:2: 3 columns: '10\\t2\\t1'; expected 4, as further up",
    ),
    "an unknown document": (
        as_bytes("qrels.train.tsv", b"10\t0\t7\t1\n"),
        "qrels.train.tsv:1: unknown document '7'",
    ),
    "an unknown query": (
        as_bytes("qrels.test.tsv", b"7\t0\t0\t1\n"),
        "qrels.test.tsv:1: unknown query '7'",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_with_the_place(case: str, tmp_path: Path) -> None:
    change, message = BAD_INPUT[case]
    cfg = write(tmp_path / "data")
    change(tmp_path / "data")
    said = said_of(cfg)
    assert message in said
    assert said.startswith(str(tmp_path / "data"))


def test_missing_folder_names_the_option(tmp_path: Path) -> None:
    said = said_of(DataConfig(source="msmarco", path=str(tmp_path / "nowhere")))
    assert "--data.path" in said
    assert "a folder with collection.tsv" in said


def test_a_survey_of_good_files_passes(tmp_path: Path) -> None:
    cfg = write(tmp_path)
    found = survey(open_source(cfg), cfg)
    assert found.doc_ids == ["0", "1", "2"]
    assert list(found.qrels) == ["train", "test"]
