"""Tuning: the fastest setting that reaches the target, with its curve in the manifest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scalingnote_jax.config import IndexConfig
from scalingnote_jax.retrieval.build_index import build_index
from scalingnote_jax.retrieval.exact import exact_search, overlap
from scalingnote_jax.retrieval.scann_index import ScannIndex, index_facts
from scalingnote_jax.retrieval.tuning import Held, Point, choose, curve, steps_to, without
from scalingnote_jax.vectors.store import StoreWriter, VectorStore

DIM = 32


def vectors(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(40, DIM))
    x = centres[rng.integers(40, size=n)] + 0.7 * rng.normal(size=(n, DIM))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> VectorStore:
    with StoreWriter(tmp_path_factory.mktemp("s") / "s", DIM, {}, 10_000) as writer:
        writer.add([str(i) for i in range(3000)], vectors(3000, 1))
        return writer.close()


def test_the_fastest_that_reaches_the_target_or_the_best_there_is() -> None:
    slow, fast, poor = Point({}, 0.99, 10.0), Point({}, 0.95, 50.0), Point({}, 0.9, 90.0)
    assert choose([slow, fast, poor], 0.95) is fast
    assert choose([slow, fast, poor], 0.999) is slow


def test_bisection_finds_the_smallest_that_reaches_the_target() -> None:
    best = np.arange(10)[None]
    held = Held(np.zeros((1, 2), np.float32), best, None, "queries")

    def search(_: np.ndarray, k: int, wide: int, deep: int) -> np.ndarray:
        found = min(wide, deep, 10)  # recall = found / 10
        return np.concatenate([best[0, :found], np.full(k - found, -1)])[None]

    points = curve(held, search, list(range(1, 21)), [5, 10], 0.7)
    good = [p.settings for p in points if p.recall >= 0.7]
    assert min(s["wide"] for s in good) == 7
    assert {s["deep"] for s in good} == {10}
    assert len(points) <= 2 * 5  # log2(20) measurements for each


def test_steps_end_where_they_must_and_grow_by_a_quarter() -> None:
    assert steps_to(1) == [1]
    assert steps_to(8) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert steps_to(1000)[-1] == 1000
    assert len(steps_to(1000)) < 35


def test_a_document_is_not_its_own_result() -> None:
    rows = np.array([[7, 1, 2], [3, 8, 4], [5, 6, 0]])
    assert without(rows, np.array([7, 8, 9])).tolist() == [[1, 2], [3, 4], [5, 6]]
    x = vectors(50, 3)
    held = Held.sample(x, None, 20)
    assert held.origin == "documents"
    assert held.own is not None
    assert not (held.best == held.own[:, None]).any()
    recall, _ = held.recall(lambda q, k: exact_search(q, x, k)[1])
    assert recall == 1.0


@pytest.mark.parametrize("origin", ["queries", "documents"])
@pytest.mark.parametrize("cap", [0, 1100])
def test_a_tuned_index_reaches_its_target_and_keeps_the_curve(
    origin: str, cap: int, store: VectorStore, tmp_path: Path
) -> None:
    cfg = IndexConfig(
        exact_below=0,
        partition_above=100,
        target_recall=0.9,
        tuning_queries=200,
        tuning_builds=2,
        max_shard_rows=cap,
    )
    held = vectors(300, 4) if origin == "queries" else None
    build_index(store, cfg, tmp_path / "index", held)
    facts = index_facts(tmp_path / "index")
    chosen = [row for row in facts["tuning"] if row["chosen"]]
    assert len(chosen) == 1
    assert chosen[0]["settings"] == facts["settings"]
    assert chosen[0]["recall"] >= 0.9
    good = [r["queries_per_sec"] for r in facts["tuning"] if r["recall"] >= 0.9]
    assert chosen[0]["queries_per_sec"] == max(good)
    assert {row["settings"]["soar_lambda"] for row in facts["tuning"]} == {1.5, None}
    assert (facts["target_recall"], facts["tuned_on"]) == (0.9, f"200 {origin}")
    files = [p for p in (tmp_path / "index").rglob("*") if p.is_file() and "scann" in p.parent.name]
    assert facts["disk_bytes"] == sum(p.stat().st_size for p in files)
    # On other queries it finds about as much.
    index = ScannIndex.open(tmp_path / "index", store.fingerprint)
    other = vectors(300, 5)
    exact = exact_search(other, store.vectors(), 10)[1]
    assert overlap(exact, index.search(other, 10)[1], 10) > 0.85


def test_brute_force_and_target_0_are_not_tuned(store: VectorStore, tmp_path: Path) -> None:
    for cfg in (IndexConfig(), IndexConfig(exact_below=0, target_recall=0)):
        build_index(store, cfg, tmp_path / "index", vectors(10, 4))
        assert "tuning" not in json.loads((tmp_path / "index" / "manifest.json").read_text())
