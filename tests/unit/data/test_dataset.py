"""The built dataset: what goes in comes out, nothing half-written stays, no TensorFlow."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.dataset import Collection, build_dataset
from scalingnote_jax.data.sources import Document, Query
from scalingnote_jax.errors import UserError

DOCUMENTS = [
    Document("d1", "Cats", "A cat sleeps all day."),
    Document("d2", "Only a title", ""),
    Document("d3", "", "a  CAT sleeps\nall day."),  # d1's text but for case and white space
    Document("d4", "only a TITLE", " "),  # d2, by its title
    Document("d5", "été 猫", "Été, 猫 and a tab\there."),
    Document("d6", "CATS", "A cat sleeps all day."),  # d1
]
QUERIES = [
    Query("q1", "cats"),
    Query("q2", "Cats "),
    Query("q3", "e\u0301te\u0301, 猫 and A tab here."),  # d5's text, and not judged
    Query("q4", "猫"),
]
GROUPS = ("doc_groups.npy", "doc_text_groups.npy", "query_groups.npy")
QRELS = {
    "train": {"q1": {"d1": 2, "d2": 0, "d3": 1}, "q2": {"d5": 1}},
    "test": {"q4": {"d5": 3, "d1": 0}},
}


def write_beir(folder: Path, qrels: dict[str, dict[str, dict[str, int]]] = QRELS) -> DataConfig:
    (folder / "qrels").mkdir(parents=True)
    records: dict[str, list[dict[str, Any]]] = {
        "corpus": [{"_id": d.id, "title": d.title, "text": d.text} for d in DOCUMENTS],
        "queries": [{"_id": q.id, "text": q.text} for q in QUERIES],
    }
    for name, rows in records.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    for split, judged in qrels.items():
        rows = [f"{q}\t{d}\t{g}" for q, grades in judged.items() for d, g in grades.items()]
        text = "\n".join(["query-id\tcorpus-id\tscore", *rows])
        (folder / f"qrels/{split}.tsv").write_text(text)
    return DataConfig(source="beir", path=str(folder))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    build_dataset(write_beir(folder / "beir"), folder / "data")
    return folder / "data"


def test_texts_come_back_as_they_went_in(built: Path) -> None:
    collection = Collection.open(built)
    assert list(collection.documents) == DOCUMENTS
    assert list(collection.queries) == QUERIES
    assert collection.doc_ids == [d.id for d in DOCUMENTS]
    assert collection.query_ids == [q.id for q in QUERIES]
    assert len(collection.documents) == 6
    assert collection.documents[-1] == collection.documents[np.int64(5)] == DOCUMENTS[5]
    assert collection.documents[1:3] == DOCUMENTS[1:3]
    with pytest.raises(IndexError):
        collection.documents[6]


def test_grades_and_several_positives_are_kept(built: Path) -> None:
    collection = Collection.open(built)
    assert collection.splits == ("train", "test")
    for split, judged in QRELS.items():
        assert collection.qrels(split) == judged
        assert list(collection.qrels(split)) == list(judged)
    with pytest.raises(
        UserError, match="no judgements in the split 'dev'; expected one of train, "
    ):
        collection.qrels("dev")


def test_equal_documents_share_a_group(built: Path) -> None:
    collection = Collection.open(built)
    assert collection.doc_groups.dtype == collection.query_groups.dtype == np.int32
    assert collection.doc_groups.tolist() == [0, 1, 2, 1, 3, 0], "by title and text"
    assert collection.doc_text_groups.tolist() == [0, 1, 0, 1, 2, 0], "by text"
    assert collection.query_groups.tolist() == [3, 3, 2, 4], "the third is a document's text"


def test_a_prompt_without_titles_shows_texts_only(built: Path) -> None:
    collection = Collection.open(built)
    for prompt, groups in (
        ("{title}: {text}", collection.doc_groups),
        ("{text}", [0, 1, 0, 1, 2, 0]),
    ):
        assert collection.as_shown(prompt).doc_groups.tolist() == list(groups)
    assert collection.doc_groups.tolist() == [0, 1, 2, 1, 3, 0], "the collection itself stays"


def test_fingerprint_is_of_the_content(built: Path, tmp_path: Path) -> None:
    before = Collection.open(built).fingerprint
    build_dataset(write_beir(tmp_path / "elsewhere"), tmp_path / "same")
    assert Collection.open(tmp_path / "same").fingerprint == before
    other = {"train": {"q1": {"d1": 1}}}
    build_dataset(write_beir(tmp_path / "other", other), tmp_path / "other-data")
    assert Collection.open(tmp_path / "other-data").fingerprint != before


def test_bad_judgements_leave_nothing_behind(tmp_path: Path) -> None:
    cfg = write_beir(tmp_path / "beir", {"train": {"q1": {"d9": 1}}})
    with pytest.raises(UserError, match=r"train\.tsv:2: unknown document 'd9'"):
        build_dataset(cfg, tmp_path / "data")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["beir"]


def test_a_failed_build_leaves_the_earlier_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = write_beir(tmp_path / "beir")
    build_dataset(cfg, tmp_path / "data")
    before = Collection.open(tmp_path / "data").fingerprint

    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(OSError, match="No space"):
            build_dataset(cfg, tmp_path / "data")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["beir", "data"]
    assert Collection.open(tmp_path / "data").fingerprint == before
    (tmp_path / "data.partial/retrieval").mkdir(parents=True)  # of a run that was killed
    build_dataset(cfg, tmp_path / "data")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["beir", "data"]


def test_files_that_change_while_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scalingnote_jax.data import dataset

    cfg = write_beir(tmp_path / "beir")
    checked = dataset.survey

    def survey_then_change(*args: Any) -> Any:
        found = checked(*args)
        with (tmp_path / "beir/corpus.jsonl").open("a") as corpus:
            corpus.write('{"_id": "late", "text": "one more"}\n')
        return found

    monkeypatch.setattr(dataset, "survey", survey_then_change)
    with pytest.raises(UserError, match="record 'late' where None was a moment ago"):
        build_dataset(cfg, tmp_path / "data")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["beir"]


def test_nothing_stays_in_the_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    build_dataset(write_beir(tmp_path / "beir"), tmp_path / "data")
    collection = Collection.open(tmp_path / "data")
    assert len(list(collection.documents)) == 6
    assert list((tmp_path / "tmp").iterdir()) == []
    built = {p.name for p in (tmp_path / "data").iterdir()}
    assert built == {*GROUPS, "retrieval", "ids.json", "manifest.json"}


def test_another_folder_is_not_overwritten(tmp_path: Path) -> None:
    cfg = write_beir(tmp_path / "beir")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="there is something else"):
        build_dataset(cfg, tmp_path / "mine")
    assert (tmp_path / "mine/thesis.tex").read_text() == "years of work"


def damage(path: Path, place: int, xor: int = 0xFF) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= xor
    path.write_bytes(content)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    cfg = write_beir(tmp_path / "beir")
    with pytest.raises(UserError, match=r"manifest\.json: not there"):
        Collection.open(data)

    build_dataset(cfg, data)
    damage(data / "doc_groups.npy", -1)
    with pytest.raises(UserError, match=r"doc_groups\.npy: damaged"):
        Collection.open(data)

    build_dataset(cfg, data)
    (corpus,) = (data / "retrieval/corpus/1.0.0").glob("*array_record*")
    damage(corpus, 100)
    with pytest.raises(UserError, match=r"retrieval/corpus/1\.0\.0: damaged"):
        list(Collection.open(data).documents)
    os.truncate(corpus, 1000)
    with pytest.raises(UserError, match=r"of-00001: 1000 bytes where the manifest says"):
        Collection.open(data)
    corpus.unlink()
    with pytest.raises(UserError, match=r"array_record-00000-of-00001: not there"):
        Collection.open(data)

    manifest = data / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 99'))
    with pytest.raises(UserError, match="format 99; expected format 2"):
        Collection.open(data)
    manifest.write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json: it is not JSON"):
        Collection.open(data)


def test_no_tensorflow_no_jax_no_chatter(tmp_path: Path) -> None:
    write_beir(tmp_path / "beir")
    code = """
import sys
import tempfile
from pathlib import Path
import scalingnote_jax.data.batches
from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.dataset import Collection, build_dataset
build_dataset(DataConfig(source="beir", path=sys.argv[1]), Path(sys.argv[2]))
collection = Collection.open(Path(sys.argv[2]))
assert len(list(collection.documents)) == 6 and len(collection.qrels("train")) == 2
assert not {"jax", "tensorflow"} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "beir", tmp_path / "data"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[3],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    lines = r"documents: 3 of 6 share [^\n]+\nwrite dataset: 13 records in [0-9.]+ s\n"
    assert re.fullmatch(lines, done.stderr)


def _shared() -> Path:
    beside = Path(__file__).resolve().parents[4] / "shared"
    return Path(os.environ.get("SCALINGNOTE_SHARED", beside)) / "data"


@pytest.mark.parametrize(
    ("name", "documents", "queries", "pairs", "distinct"),
    [
        ("scifact", 5183, 1109, {"train": 784, "dev": 135, "test": 339}, 5183),
        ("stard-zh", 1333, 1543, {"train": 1890, "dev": 171, "test": 559}, 1333),
        ("cacm", 3204, 52, {"test": 796}, 2993),  # half are titles only
    ],
)
def test_real_collections(
    name: str,
    documents: int,
    queries: int,
    pairs: dict[str, int],
    distinct: int,
    tmp_path: Path,
) -> None:
    folder = _shared() / name
    if not folder.is_dir():
        pytest.skip(f"no collection at {folder}; set SCALINGNOTE_SHARED")
    build_dataset(DataConfig(source="beir", path=str(folder)), tmp_path / "data")
    collection = Collection.open(tmp_path / "data")
    assert len(collection.documents) == documents
    assert len(collection.queries) == queries
    assert {s: sum(map(len, collection.qrels(s).values())) for s in collection.splits} == pairs
    assert len(np.unique(collection.doc_groups)) == distinct
