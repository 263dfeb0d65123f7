"""Rows of query, positives, negatives: what is made of them, how they are cut, what is refused."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_errors import said_of

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.dataset import Collection, build_dataset
from scalingnote_jax.data.sources import SPLITS, Qrels, Source, open_source
from scalingnote_jax.data.sources.shares import linked_queries

SLEEPY = {"query": "sleepy animals", "positive": "A cat sleeps.", "negatives": ["Dogs bark."]}
AGAIN = {"query": "Sleepy  ANIMALS", "positive": ["a cat  sleeps.", "Sloths hang."]}  # SLEEPY's
LOUD = {"query": "loud 猫", "positive": "Dogs bark.", "negative_1": "Été.", "negative_2": None}
ROWS = [SLEEPY, AGAIN, LOUD]
TEXTS = ["A cat sleeps.", "Dogs bark.", "Sloths hang.", "Été."]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def pairs(path: Path, **options: Any) -> DataConfig:
    return DataConfig(source="pairs", path=str(path), **options)


def written(path: Path, rows: list[dict[str, Any]], **options: Any) -> DataConfig:
    path.write_bytes(jsonl(rows))
    return pairs(path, **options)


def judged(source: Source) -> dict[str, dict[str, int]]:
    """All judgements by the texts, whatever their split."""
    documents = {d.id: d.text for d in source.documents()}
    queries = {q.id: q.text for q in source.queries()}
    return {
        queries[query_id]: {documents[doc_id]: grade for doc_id, grade in grades.items()}
        for split in SPLITS
        for query_id, grades in source.qrels(split).items()
    }


def test_equal_texts_are_one_document_and_one_query(tmp_path: Path) -> None:
    source = open_source(written(tmp_path / "rows.jsonl", ROWS))
    assert [d.text for d in source.documents()] == TEXTS
    assert [q.text for q in source.queries()] == ["sleepy animals", "loud 猫"]
    assert judged(source) == {
        "sleepy animals": {"A cat sleeps.": 1, "Dogs bark.": 0, "Sloths hang.": 1},
        "loud 猫": {"Dogs bark.": 1, "Été.": 0},
    }


def test_ids_are_of_the_text_alone(tmp_path: Path) -> None:
    first = open_source(written(tmp_path / "a.jsonl", ROWS))
    second = open_source(written(tmp_path / "b.jsonl", [LOUD]))
    ids = {d.text: d.id for d in first.documents()}
    assert {d.text: d.id for d in second.documents()} == {t: ids[t] for t in ("Dogs bark.", "Été.")}
    assert len(set(ids.values())) == 4


def test_what_is_positive_in_one_row_is_relevant(tmp_path: Path) -> None:
    rows = [
        SLEEPY,
        {"query": "sleepy animals", "positive": "Dogs bark.", "negative": "A cat sleeps."},
    ]
    for order in (rows, rows[::-1]):
        source = open_source(written(tmp_path / "rows.jsonl", order))
        assert judged(source) == {"sleepy animals": {"A cat sleeps.": 1, "Dogs bark.": 1}}


def test_fields_of_other_names(tmp_path: Path) -> None:
    rows = [{"q": "sleepy", "pos": ["A cat."], "neg": ["A dog."], "positive": 1, "negative": 2}]
    options = {"query_field": "q", "positive_field": "pos"}
    cfg = written(tmp_path / "rows.jsonl", rows, **options, negative_fields=("neg",))
    assert judged(open_source(cfg)) == {"sleepy": {"A cat.": 1, "A dog.": 0}}
    cfg = written(tmp_path / "rows.jsonl", rows, **options, negative_fields=())
    assert judged(open_source(cfg)) == {"sleepy": {"A cat.": 1}}
    cfg = written(tmp_path / "rows.jsonl", rows, **options, negative_fields=("hard",))
    assert "rows.jsonl:1: no field 'hard' (fields: 'q', 'pos', 'neg'," in said_of(cfg)


def test_parquet_and_gzip_give_the_same_as_jsonl(tmp_path: Path) -> None:
    as_lists = [
        {**row, "positive": p if isinstance(p := row["positive"], list) else [p]} for row in ROWS
    ]
    found = [open_source(written(tmp_path / "rows.jsonl", as_lists))]
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(jsonl(as_lists)))
    found.append(open_source(pairs(tmp_path / "rows.jsonl.gz")))
    names = dict.fromkeys(name for row in as_lists for name in row)
    table = pa.table({name: [row.get(name) for row in as_lists] for name in [*names, "unread"]})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=2)
    found.append(open_source(pairs(tmp_path / "rows.parquet")))
    for source in found:
        assert list(source.documents()) == list(found[0].documents())
        assert list(source.queries()) == list(found[0].queries())
        assert judged(source) == judged(found[0])


def test_a_folder_has_the_splits_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(jsonl([SLEEPY])))
    for part, row in enumerate((AGAIN, LOUD)):
        table = pa.table({"query": [row["query"]], "positive": [row["positive"]]})
        pq.write_table(table, tmp_path / f"validation-0000{part}-of-00002.parquet")
    (tmp_path / "test.jsonl").write_bytes(jsonl([LOUD]))
    (tmp_path / "test_old.jsonl").write_bytes(jsonl([AGAIN]))
    source = open_source(pairs(tmp_path))
    assert [len(source.qrels(split)) for split in SPLITS] == [1, 2, 1]
    assert source.qrels("test").keys() <= source.qrels("dev").keys()
    assert [q.text for q in source.queries()] == ["sleepy animals", "loud 猫"]


def many(groups: int = 80) -> list[dict[str, str]]:
    """Two queries for each text, and every text a negative of the next group."""
    return [
        {"query": f"query {g} {i}", "positive": f"text {g}", "negative": f"text {(g + 1) % groups}"}
        for g in range(groups)
        for i in range(2)
    ]


def positives(qrels: Qrels) -> set[str]:
    return {doc_id for grades in qrels.values() for doc_id, grade in grades.items() if grade > 0}


def test_no_positive_is_in_two_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"test_percent": 30, "dev_percent": 20}
    source = open_source(written(tmp_path / "rows.jsonl", many(), **options))
    splits = {split: source.qrels(split) for split in SPLITS}
    texts = [positives(splits[split]) for split in SPLITS]
    assert sum(map(len, texts)) == len(set.union(*texts)) == 80
    assert sum(map(len, splits.values())) == 160, "both queries of a text are in its split"
    counts = [len(splits[split]) for split in SPLITS]
    said = "train {}, dev {}, test {}".format(*counts)
    assert f"160 queries in 80 groups that share no text: {said}" in capsys.readouterr().err
    assert 20 <= counts[1] <= 44
    assert 32 <= counts[2] <= 64

    shuffled = many()
    random.Random(0).shuffle(shuffled)
    again = open_source(written(tmp_path / "other.jsonl", shuffled, **options))
    assert {split: again.qrels(split) for split in SPLITS} == splits
    other = open_source(written(tmp_path / "rows.jsonl", many(), seed=1, **options))
    assert set(other.qrels("test")) != set(splits["test"])


def test_queries_are_linked_by_what_is_relevant_to_both() -> None:
    qrels = {"b": {"2": 1, "1": 1}, "a": {"1": 1}, "c": {"2": 2}, "d": {"3": 1, "1": 0}}
    assert linked_queries(qrels, str) == {"a": "a", "b": "a", "c": "a", "d": "d"}
    assert linked_queries({}, str) == {}


def test_a_query_is_linked_with_the_positive_of_its_text() -> None:
    qrels = {"q-1": {"d-2": 1}, "q-2": {"d-3": 1}, "q-4": {"d-5": 1, "d-1": 0}, "q-5": {"d-6": 1}}
    groups = linked_queries(qrels, lambda name: name[2:])
    assert groups == {"q-1": "q-1", "q-2": "q-1", "q-4": "q-4", "q-5": "q-4"}


def test_pairs_both_ways_stay_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ways = [(f"question {i}", f"Question  {i} asked otherwise") for i in range(100)]
    rows = [{"query": a, "positive": b} for a, b in ways]
    rows += [{"query": b.upper(), "positive": a} for a, b in ways]
    source = open_source(written(tmp_path / "rows.jsonl", rows, test_percent=30))
    splits = {split: source.qrels(split) for split in SPLITS}
    assert "200 queries in 100 groups that share no text" in capsys.readouterr().err
    texts = [
        {name[2:] for query, grades in judged.items() for name in (query, *grades)}
        for judged in splits.values()
    ]
    assert sum(map(len, texts)) == len(set.union(*texts)) == 200
    assert all(texts)


def test_only_texts_are_negatives_unless_others_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {"negative": "A.", "negatives": ["B."], "negative_1": "C.", "negative_22": "D."}
    others = ("_id", "_ids", "_score", "_source", "_type", "_1_id", "_text", "s_id")
    rows = [{"query": "x", "positive": "Y."} | texts | {f"negative{o}": f"{o}." for o in others}]
    found = list(open_source(written(tmp_path / "rows.jsonl", rows)).documents())
    assert [d.text for d in found] == ["Y.", "A.", "B.", "C.", "D."]
    assert capsys.readouterr().err == ""
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    source = open_source(pairs(tmp_path / "rows.parquet"))
    assert list(source.documents()) == found
    assert len(source.qrels("train") | source.qrels("dev") | source.qrels("test")) == 1
    taken = "rows.parquet: negatives are taken from negative, negatives, negative_1, negative_22"
    assert taken in capsys.readouterr().err
    asked = written(tmp_path / "rows.jsonl", rows, negative_fields=("negative_t*", "negative_#_id"))
    assert [d.text for d in open_source(asked).documents()] == ["Y.", "_type.", "_text.", "_1_id."]


def test_rows_that_hang_together_cannot_be_cut(tmp_path: Path) -> None:
    rows = [{"query": f"query {i}", "positive": "the same"} for i in range(9)]
    cfg = written(tmp_path / "rows.jsonl", rows, test_percent=99, dev_percent=0)
    assert (
        "--data.test_percent: all 9 queries in 1 groups that share no text are in dev"
        in said_of(cfg)
    )


def test_fingerprint_is_of_the_content_and_of_what_shapes_it(tmp_path: Path) -> None:
    def of(path: Path, rows: list[dict[str, Any]] = ROWS, **options: Any) -> str:
        return open_source(written(path, rows, **options)).fingerprint()

    base = of(tmp_path / "a.jsonl")
    assert of(tmp_path / "b.jsonl") == base, "a file's name does not count"
    assert of(tmp_path / "a.jsonl", ROWS[::-1]) != base
    for options in ({"seed": 1}, {"negative_fields": ()}, {"test_percent": 20}):
        assert of(tmp_path / "a.jsonl", **options) != base
    (tmp_path / "test.jsonl").write_bytes(jsonl([LOUD]))
    written(tmp_path / "train.jsonl", ROWS)
    before = open_source(pairs(tmp_path)).fingerprint()
    assert open_source(pairs(tmp_path, seed=1)).fingerprint() == before, "nothing is cut"


def test_a_built_dataset_keeps_the_negatives(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(jsonl([SLEEPY, LOUD]))
    (tmp_path / "test.jsonl").write_bytes(jsonl([AGAIN]))
    build_dataset(pairs(tmp_path), tmp_path / "data")
    collection = Collection.open(tmp_path / "data")
    text = {d.id: d.text for d in collection.documents}
    found = [
        {text[d]: g for d, g in grades.items()} for grades in collection.qrels("train").values()
    ]
    assert found == [{"A cat sleeps.": 1, "Dogs bark.": 0}, {"Dogs bark.": 1, "Été.": 0}]


BAD_ROWS = {
    "no query": ({"positive": "x"}, "no field 'query' (fields: 'positive')"),
    "no positive": ({"query": "x", "pos": "y"}, "no field 'positive' (fields: 'query', 'pos')"),
    "no positive in the list": ({"query": "x", "positive": []}, "no text in 'positive'"),
    "a number": ({"query": "x", "positive": 3}, "the field 'positive' is of type int"),
    "an object": (
        {"query": "x", "positive": [{"text": "y"}]},
        "the field 'positive' is of type dict",
    ),
    "null": ({"query": None, "positive": "y"}, "'query' is empty"),
    "no positive but null": ({"query": "x", "positive": [None]}, "no text in 'positive'"),
    "an empty query": ({"query": " ", "positive": "y"}, "'query' is empty"),
    "an empty negative": ({"query": "x", "positive": "y", "negative": ""}, "'negative' is empty"),
    "positive and negative": (
        {"query": "x", "positive": "Yes.", "negatives": ["no", "yes."]},
        "'yes.' as positive and as negative",
    ),
    "a long text": (
        {"query": "x", "positive": "y" * 200_001},
        "a positive of 200,001 bytes; expected at most 200,000",
    ),
    "a lone surrogate": (
        {"query": "x", "positive": "a\ud800"},
        "a lone surrogate \\ud800 in 'positive', character 2",
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows_are_named_by_file_and_line(case: str, tmp_path: Path) -> None:
    row, message = BAD_ROWS[case]
    said = said_of(written(tmp_path / "rows.jsonl", [SLEEPY, row]))
    assert said.startswith(f"{tmp_path}/rows.jsonl:2: {message}")


BAD_FILES = {
    "broken JSON": ("rows.jsonl", jsonl([SLEEPY]) + b"{\n", "rows.jsonl:2: not JSON"),
    "not UTF-8": ("rows.jsonl", b'{"query": "\xe9"}\n', "rows.jsonl:1: byte 0xe9 at column 12"),
    "no row": ("rows.jsonl", b"\n", "rows.jsonl: the corpus is empty"),
    "gzip in name only": ("rows.jsonl.gz", jsonl(ROWS), "rows.jsonl.gz:1: the file cannot be read"),
    "Parquet in name only": (
        "rows.parquet",
        jsonl(ROWS),
        "rows.parquet:1: the file cannot be read on from here (its end is not that of a whole file",
    ),
    "an empty Parquet file": ("rows.parquet", b"", "rows.parquet:1: the file cannot be read"),
    "another format": ("rows.csv", b"query,positive\n", "--data.path: no rows in "),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(case: str, tmp_path: Path) -> None:
    name, content, message = BAD_FILES[case]
    (tmp_path / name).write_bytes(content)
    assert message in said_of(pairs(tmp_path / name))


def test_bad_parquet_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"

    def said(**columns: Any) -> str:
        pq.write_table(pa.table(columns), path)
        return said_of(pairs(path))

    good = ["x", "y"]
    missing = "rows.parquet: no field 'positive' (fields: 'query', 'text')"
    assert missing in said(query=good, text=good)
    assert "rows.parquet:2: 'query' is empty" in said(query=["x", None], positive=good)
    assert "rows.parquet:1: the field 'query' is of type int" in said(query=[1, 2], positive=good)
    latin1 = pa.array([b"x", b"\xe9"]).view(pa.string())
    assert "rows.parquet:2: a text that is not UTF-8" in said(query=latin1, positive=good)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "rows.parquet:1: the file cannot be read on from here" in said_of(pairs(path))


def test_missing_places_name_the_option(tmp_path: Path) -> None:
    for path in ("", str(tmp_path / "nowhere"), str(tmp_path)):
        said = said_of(DataConfig(source="pairs", path=path))
        assert said.startswith(f"--data.path: no rows in {path!r}; expected a file (.jsonl, ")
