"""Splits by entity: no entity of a test query is in training, and no judgement is made up."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs" / "results"))
from entity_splits import ENTITIES, deal

from scalingnote_jax.cli import main


def folder(path: Path) -> Path:
    """60 hotels of two documents each; each query is about one, every tenth about two."""
    (path / "qrels").mkdir(parents=True)
    corpus, queries, rows = [], [], []
    for i in range(60):
        for part in ("faq", "review"):
            title = f"Inn {i} (hotel) - {part}"
            corpus.append({"_id": f"hotel-{i}-{part}", "title": title, "text": f"{part} of {i}"})
        asked = f"I look for rooms. Is inn {i} quiet?"
        queries.append({"_id": f"q{i}", "text": asked, "metadata": {"last_turn": "Is it quiet?"}})
        rows += [f"q{i}\thotel-{i}-faq\t1", f"q{i}\thotel-{(i + 7) % 60}-review\t0"]
        rows += [f"q{i}\thotel-{(i + 1) % 60}-review\t1"] if i % 10 == 0 else []
    for name, lines in (("corpus", corpus), ("queries", queries)):
        (path / f"{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    for split, part in (("train", rows[:50]), ("dev", rows[50:60]), ("test", rows[60:])):
        (path / "qrels" / f"{split}.tsv").write_text("\n".join(["head", *part]) + "\n")
    return path


def judged(path: Path, split: str) -> list[list[str]]:
    return [x.split("\t") for x in (path / "qrels" / f"{split}.tsv").read_text().splitlines()[1:]]


@pytest.mark.parametrize("name", ["dstc11-sktod", "dstc11-sktod-named"])
def test_no_entity_is_on_both_sides(name: str, tmp_path: Path) -> None:
    counts = deal(ENTITIES[name], folder(tmp_path / "given"), tmp_path / "dealt")
    splits = {split: judged(tmp_path / "dealt", split) for split in ("train", "dev", "test")}
    about = {s: {r[1].split("-")[1] for r in rows} for s, rows in splits.items()}
    assert about["train"]
    assert about["test"]
    assert not about["train"] & (about["dev"] | about["test"])
    assert counts["train"] == (len({r[0] for r in splits["train"]}), len(splits["train"]))
    pairs = sum(map(len, splits.values()))
    if name.endswith("named"):  # one query for each entity
        assert pairs == 60 + 6
        asked = [json.loads(x) for x in (tmp_path / "dealt" / "queries.jsonl").open()]
        assert "Inn 3: Is it quiet?" in {q["text"] for q in asked}
    else:  # those about two that fell apart are left out
        assert 54 <= pairs < 66


def test_the_package_reads_them(tmp_path: Path) -> None:
    deal(ENTITIES["dstc11-sktod"], folder(tmp_path / "given"), tmp_path / "dealt")
    given = ["data", "scalingnote", f"--data.path={tmp_path / 'dealt'}"]
    assert main([*given, f"--workdir={tmp_path / 'work'}"]) == 0
