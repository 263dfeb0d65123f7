"""Datasets of the ir_datasets library, registered here from small files: nothing is downloaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from source_errors import said_of

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.sources import Document, Query, open_source
from scalingnote_jax.data.survey import survey

FILES = {
    "docs": "d1\tA cat sleeps.\nd2\tDogs bark.\nd3\tSloths hang.\n",
    "train.queries": "q1\tsleepy animals\nq2\tloud animals\n",
    "train.qrels": "q1 0 d1 2\nq1 0 d2 0\nq2 0 d2 1\n",
    "test.queries": "q2\tloud animals\nq3\tslow animals\n",
    "test.qrels": "q3 0 d3 1\n",
}


class Titled(NamedTuple):
    doc_id: str
    title: str
    text: str


class Parts(NamedTuple):
    """A document without a field `text`."""

    doc_id: str
    title: str
    body: str

    def default_text(self) -> str:
        return f"{self.title} {self.body}"


class Library:
    """Registers datasets of files in a folder under names that no other test uses."""

    def __init__(self, folder: Path):
        import ir_datasets

        self.ir_datasets, self.folder = ir_datasets, folder
        self.name = f"{folder.parent.name}-{folder.name}"
        for name, text in FILES.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def docs(self, **kwargs: Any) -> Any:
        return self.ir_datasets.formats.TsvDocs(self._file("docs"), **kwargs)

    def register(self, part: str, docs: Any, split: str) -> None:
        formats = self.ir_datasets.formats
        queries = formats.TsvQueries(self._file(f"{split}.queries"))
        qrels = formats.TrecQrels(self._file(f"{split}.qrels"), {})
        dataset = self.ir_datasets.Dataset(docs, queries, qrels)
        self.ir_datasets.registry.register(f"{self.name}{part}", dataset)

    def _file(self, name: str) -> Any:
        return self.ir_datasets.util.LocalDownload(self.folder / name)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "home"))
    return Library(tmp_path)


@pytest.fixture
def family(library: Library) -> Library:
    """`NAME/train` and `NAME/test` over the same documents."""
    docs = library.docs()
    for split in ("train", "test"):
        library.register(f"/{split}", docs, split)
    return library


def irds(path: str) -> DataConfig:
    return DataConfig(source="ir_datasets", path=path)


def test_splits_by_their_names(family: Library) -> None:
    source = open_source(irds(family.name))
    assert list(source.documents()) == [
        Document("d1", "", "A cat sleeps."),
        Document("d2", "", "Dogs bark."),
        Document("d3", "", "Sloths hang."),
    ]
    shared_once = [
        Query("q1", "sleepy animals"),
        Query("q2", "loud animals"),
        Query("q3", "slow animals"),
    ]
    assert list(source.queries()) == list(source.queries()) == shared_once
    assert source.qrels("train") == {"q1": {"d1": 2, "d2": 0}, "q2": {"d2": 1}}
    assert source.qrels("dev") == {}
    assert source.qrels("test") == {"q3": {"d3": 1}}
    assert survey(source, irds(family.name)).doc_ids == ["d1", "d2", "d3"]


def test_one_dataset_is_a_test_split_and_splits_can_be_named(family: Library) -> None:
    assert open_source(irds(f"{family.name}/train")).qrels("test").keys() == {"q1", "q2"}
    swapped = open_source(irds(f"test={family.name}/train,train={family.name}/test"))
    assert swapped.qrels("train") == {"q3": {"d3": 1}}
    assert swapped.qrels("test").keys() == {"q1", "q2"}


def test_titles_and_default_texts(library: Library) -> None:
    library.write("docs", "d1\tCats\tThey sleep.\nd2\t\tDogs bark.\nd3\tSloths\t\n")
    library.register("/titled", library.docs(doc_cls=Titled), "train")
    library.register("/parts", library.docs(doc_cls=Parts), "train")
    assert list(open_source(irds(f"{library.name}/titled")).documents()) == [
        Document("d1", "Cats", "They sleep."),
        Document("d2", "", "Dogs bark."),
        Document("d3", "Sloths", ""),
    ]
    parts = [d.text for d in open_source(irds(f"{library.name}/parts")).documents()]
    assert parts == ["Cats They sleep.", " Dogs bark.", "Sloths "]


def test_what_campaigns_leave_is_put_right_and_said(
    library: Library, capsys: pytest.CaptureFixture[str]
) -> None:
    library.write("train.qrels", "q1 0 d1 1\nq1 1 d1 3\nq1 0 d2 -2\nq1 0 gone 1\nq2 0 d3 -1\n")
    library.register("", library.docs(), "train")
    cfg = irds(library.name)
    found = survey(open_source(cfg), cfg)
    assert found.qrels == {"test": {"q1": {"d1": 3, "d2": 0}}}
    lines = capsys.readouterr().err
    assert f"{library.name}: 2 grades below 0 count as 0" in lines
    assert "1 judgements of documents that are not in the corpus left out" in lines
    assert "1 queries without a relevant document left out" in lines


def test_fingerprint_is_of_the_content(family: Library) -> None:
    before = open_source(irds(family.name)).fingerprint()
    assert open_source(irds(family.name)).fingerprint() == before
    assert open_source(irds(f"{family.name}/train")).fingerprint() != before
    changes = {
        "docs": ("Dogs", "Birds"),
        "train.queries": ("sleepy", "tired"),
        "train.qrels": ("d1 2", "d1 1"),
        "test.queries": ("slow", "lazy"),
        "test.qrels": ("d3", "d1"),
    }
    for name, (old, new) in changes.items():
        family.write(name, FILES[name].replace(old, new))
        assert open_source(irds(family.name)).fingerprint() != before, name
        family.write(name, FILES[name])


def test_documents_without_a_file_are_hashed_one_by_one(library: Library) -> None:
    formats = library.ir_datasets.formats
    texts = ["A cat sleeps.", "Dogs bark."]

    class InMemory(formats.BaseDocs):
        def docs_iter(self) -> Any:
            return (formats.GenericDoc(f"d{i}", text) for i, text in enumerate(texts, 1))

    library.write("train.qrels", "q1 0 d1 1\n")
    library.register("", InMemory(), "train")
    before = open_source(irds(library.name)).fingerprint()
    assert open_source(irds(library.name)).fingerprint() == before
    texts[1] = "Birds sing."
    assert open_source(irds(library.name)).fingerprint() != before


def test_unknown_ids_name_near_ones(family: Library) -> None:
    said = said_of(irds(f"{family.name}/trian"))
    assert said.startswith(f"--data.path: '{family.name}/trian' is no such id; ")
    assert f"did you mean one of: {family.name}/train" in said
    assert "'' is no such id" in said_of(irds(""))
    assert "'nowhere' is no such id" in said_of(irds(f"train={family.name}/train,test=nowhere"))
    for path in ("train=a,train=b", "trian=a"):
        assert "expected train=ID,dev=ID,test=ID" in said_of(irds(path))


def test_splits_of_two_collections_are_refused(family: Library) -> None:
    family.register("/other", family.docs(), "test")
    said = said_of(irds(f"train={family.name}/train,test={family.name}/other"))
    assert f"{family.name}/other has other documents than {family.name}/train" in said


BAD_INPUT = {
    "duplicate document": ("docs", "d1\tx\nd1\ty\n", " docs:2: the doc_id 'd1' again"),
    "id with a space": ("docs", "d 1\tx\n", " docs:1: the doc_id 'd 1'"),
    "an empty query": ("train.queries", "q1\t \n", " queries:1: query 'q1' is empty"),
    "one id, two texts": ("test.queries", "q2\tanother\n", " queries:1: the query_id 'q2' again"),
    "an unknown query": ("test.qrels", "q9 0 d1 1\n", " qrels q9 d1: unknown query 'q9'"),
    "a column too many": ("docs", "d1\tx\ty\n", " cannot be read (RuntimeError: expected 2 fields"),
    "a grade that is none": ("test.qrels", "q3 0 d3 x\n", " cannot be read (ValueError: "),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_with_the_place(case: str, family: Library) -> None:
    name, text, message = BAD_INPUT[case]
    family.write(name, text)
    said = said_of(irds(family.name))
    assert message in said
    assert f"{family.name}/{'test' if name.startswith('test') else 'train'}" in said


def test_what_cannot_be_downloaded_is_one_line(family: Library) -> None:
    (family.folder / "docs").unlink()
    said = said_of(irds(family.name))
    assert said.startswith(f"ir_datasets {family.name}/train: cannot be read (FileNotFoundError: ")
    assert "check the network" in said


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    said = said_of(irds("beir/scifact"))
    assert "the library is not installed" in said
    assert "pip install 'scalingnote_jax[ir_datasets]'" in said
