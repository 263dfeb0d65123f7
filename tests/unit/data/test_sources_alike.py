"""One manner of reading for all sources of files: the same table in BEIR's and in MS MARCO's folder
gives the same judgements, or is refused with the same words.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from source_errors import said_of

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.sources import Document, Query, open_source
from scalingnote_jax.data.survey import survey

TEXTS = {"1": "one", "2": "two", "3": "three"}


def beir(folder: Path, judged: str) -> DataConfig:
    """Ids are JSON's integers; the third text is null."""
    (folder / "qrels").mkdir(parents=True)
    rows = [
        {"_id": int(i), "title": None, "text": t if i < "3" else None} for i, t in TEXTS.items()
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries.jsonl").write_text('{"_id": 7, "text": "seven"}\n')
    (folder / "qrels/train.tsv").write_text(judged)
    return DataConfig(source="beir", path=str(folder))


def msmarco(folder: Path, judged: str) -> DataConfig:
    """The collection has a header and the columns the other way round; the third text is empty."""
    folder.mkdir()
    rows = [f"{t if i < '3' else ''}\t{i}" for i, t in TEXTS.items()]
    (folder / "collection.tsv").write_text("\n".join(["text\tpid", *rows]))
    (folder / "queries.train.tsv").write_text("QID\tQuery\n7\tseven\n")
    (folder / "qrels.train.tsv").write_text(judged)
    return DataConfig(source="msmarco", path=str(folder))


SOURCES = pytest.mark.parametrize("folder_of", [beir, msmarco])
GOOD = {
    "header": "query-id\tcorpus-id\tscore\n7\t1\t2\n7\t2\t0\n",
    "other order and names": "rel docid qid\n2 1 7\n0 2 7\n",
    "a column more": "query_id\titeration\tdoc_id\trelevance\n7\tQ0\t1\t2\n7\tQ0\t2\t0\n",
    "no header": "7\t1\t2\n7\t2\t0\n",
    "TREC": "7 0 1 2\n7 0 2 0\n",
    "decimal": "7\t1\t2.0\n7\t2\t0.0\n",
    "negative": "7\t1\t2\n7\t2\t-2\n",
    "negative decimal, signs, twice": "7\t1\t+2\n7\t2\t-1.0\n7\t1\t2\n",
}


@SOURCES
@pytest.mark.parametrize("form", GOOD)
def test_judgements_are_read_alike(folder_of, form: str, tmp_path: Path) -> None:
    cfg = folder_of(tmp_path / "data", GOOD[form])
    source = open_source(cfg)
    assert source.qrels("train") == {"7": {"1": 2, "2": 0}}
    assert list(source.documents())[:2] == [Document("1", "", "one"), Document("2", "", "two")]
    assert list(source.queries()) == [Query("7", "seven")]
    assert survey(source, cfg).doc_ids == ["1", "2"], "a null or empty text is left out"


@SOURCES
def test_grades_below_0_are_counted_aloud(
    folder_of, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_source(folder_of(tmp_path / "data", "7 0 1 2\n7 0 2 -2\n7 0 3 -1\n")).qrels("train")
    assert "train.tsv: 2 grades below 0 count as 0" in capsys.readouterr().err


BAD = {
    "a share": ("7\t1\t1\n7\t2\t0.5\n", ":2: the score '0.5'; expected a whole number"),
    "no number": ("7\t1\t1\n7\t2\tyes\n", ":2: the score 'yes'; expected a whole number"),
    "another header": (
        "a\tb\tc\n7\t1\t1\n",
        ":1: 3 columns: 'a\\tb\\tc'; expected the columns qid",
    ),
    "two grades": ("7\t1\t1\n7\t1\t2\n", ":2: 7 1 has grade 2, but 1 further up"),
    "a column less": ("7\t1\t1\n7\t2\n", ":2: 2 columns: '7\\t2'; expected 3, as further up"),
}


@SOURCES
@pytest.mark.parametrize("case", BAD)
def test_judgements_are_refused_alike(folder_of, case: str, tmp_path: Path) -> None:
    judged, message = BAD[case]
    assert f"train.tsv{message}" in said_of(folder_of(tmp_path / "data", judged))
