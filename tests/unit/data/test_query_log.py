"""A query log: read, weighted by how often each text was asked, held-out queries left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scalingnote_jax.config import DataConfig, DistillConfig, replace
from scalingnote_jax.data.augment.query_log import by_frequency, read_log
from scalingnote_jax.data.augment.query_texts import epoch_rows, query_texts
from scalingnote_jax.data.dataset import Collection, build_dataset
from scalingnote_jax.errors import UserError


def test_both_forms_and_their_counts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("red shoes\n\nblue hat\n red shoes \n")
    (tmp_path / "b.jsonl").write_text('{"text": "red shoes", "count": 5}\n{"query": "scarf"}\n')
    found = read_log([str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl")])
    assert found == {"red shoes": 7, "blue hat": 1, "scarf": 1}
    assert read_log([]) == {}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", " \n", "no text in"),
        ("a.csv", "x", "expected a text on each line"),
        ("a.jsonl", '{"text": "x"}\n["y"]\n', r"a\.jsonl:2: \['"),
        ("a.jsonl", '{"text": "x", "count": 0}\n', r"a\.jsonl:1: .*a whole \"count\" above 0"),
        ("a.jsonl", '{"text": 3}\n', r"a\.jsonl:1: "),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=says.replace("\\['", '\\["')):
        read_log([str(tmp_path / name)])
    with pytest.raises(UserError, match="is not there"):
        read_log([str(tmp_path / "nothing.txt")])
    (tmp_path / "b.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(UserError, match="not UTF-8"):
        read_log([str(tmp_path / "b.txt")])


def test_each_text_comes_by_its_count() -> None:
    """Of 8 places a text with half of the counts has 4; one with a sixteenth has 0 or 1."""
    counts = np.array([1, 8, 1, 4, 1, 1])
    for epoch in range(20):
        times = np.bincount(by_frequency(counts, 8, 3, epoch), minlength=6)
        assert times.sum() == 8
        assert times[1] == 4
        assert times[3] == 2
        assert set(times[[0, 2, 4, 5]]) <= {0, 1}
    rare = [by_frequency(counts, 8, 3, epoch).tolist() for epoch in range(20)]
    assert {0, 2, 4, 5} <= {place for places in rare for place in places}
    assert rare[4] == by_frequency(counts, 8, 3, 4).tolist()


def test_a_log_beside_a_collection(
    beir_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_dataset(DataConfig(source="beir", path=str(beir_folder)), tmp_path / "data")
    collection = Collection.open(tmp_path / "data")
    train = set(collection.qrels("train"))
    known = next(q.text for q in collection.queries if q.id in train)
    held = next(q.text for q in collection.queries if q.id in collection.qrels("test"))
    log = tmp_path / "log.txt"
    log.write_text("\n".join(["new words"] * 6 + ["others", known, held.upper(), held.upper()]))
    cfg = DistillConfig(query_files=(str(log),), probe_queries=0)
    capsys.readouterr()
    found = query_texts(cfg, collection, seed=0)
    assert "a log of 10 queries, 4 texts: 2 that no other source has, 1 of held-out" in (
        capsys.readouterr().err
    )
    own = [text for text, owner in zip(found.learned, found.owners, strict=True) if owner == 1]
    assert own == ["new words", "others"]
    assert found.counts is not None
    rows_of = epoch_rows(found.owners, cfg, 0, found.counts)
    assert rows_of is not None
    rows = rows_of(0)
    assert len(rows) == len(found.learned)
    times = np.bincount(rows, minlength=len(found.learned))
    assert (times[found.owners == 0] == 1).all()
    assert times[found.learned.index("new words")] == 2  # of two places, six sevenths are its own
    weighed = replace(cfg, query_weights=(1.0, 1.0))
    rows_of = epoch_rows(found.owners, weighed, 0, found.counts)
    assert rows_of is not None
    share = np.isin(rows_of(0), np.flatnonzero(found.owners == 1)).mean()
    assert share == pytest.approx(0.5, abs=0.02)
