"""Documents with neither title nor text: dropped, kept or refused, by their judgements."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import shared_folder

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.dataset import Collection, build_dataset
from scalingnote_jax.data.sources import open_source
from scalingnote_jax.data.survey import survey


def beir_folder(folder: Path, judged_in_test: str) -> DataConfig:
    """Two documents with a text and one, "e", with none; a query whose answer is "d1", and one of
    the test split.
    """
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(
        '{"_id": "d1", "title": "", "text": "one"}\n'
        '{"_id": "e", "title": " ", "text": ""}\n'
        '{"_id": "d2", "title": "", "text": "two"}\n'
    )
    (folder / "queries.jsonl").write_text(
        '{"_id": "q1", "text": "first"}\n{"_id": "q2", "text": "second"}\n'
    )
    header = "query-id\tcorpus-id\tscore\n"
    (folder / "qrels/train.tsv").write_text(header + "q1\td1\t1\nq1\te\t0\n")
    (folder / "qrels/test.tsv").write_text(header + judged_in_test)
    return DataConfig(source="beir", path=str(folder))


def test_one_that_nothing_finds_relevant_is_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    build_dataset(beir_folder(tmp_path / "beir", "q2\td2\t1\nq2\te\t0\n"), tmp_path / "data")
    assert "1 dropped, 0 kept" in "".join(capsys.readouterr())
    collection = Collection.open(tmp_path / "data")
    assert list(collection.doc_ids) == ["d1", "d2"]
    assert collection.qrels("train") == {"q1": {"d1": 1}}
    assert collection.qrels("test") == {"q2": {"d2": 1}}


def test_one_that_a_test_query_needs_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    build_dataset(beir_folder(tmp_path / "beir", "q2\td2\t1\nq2\te\t2\n"), tmp_path / "data")
    assert "0 dropped, 1 kept" in "".join(capsys.readouterr())
    collection = Collection.open(tmp_path / "data")
    assert list(collection.doc_ids) == ["d1", "e", "d2"]
    assert collection.qrels("test") == {"q2": {"d2": 1, "e": 2}}


@pytest.mark.skipif(shared_folder() is None, reason="the shared collections are not here")
def test_cranfield_has_both_kinds():
    folder = (shared_folder() or Path()) / "data/cranfield"
    cfg = DataConfig(source="beir", path=str(folder))
    found = survey(open_source(cfg), cfg)
    # 471 answers nothing; 995 is judged for query 125, which has no text to find it by.
    assert found.dropped == {"471"}
    assert "995" in found.doc_ids
