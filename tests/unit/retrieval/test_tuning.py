"""Tuning: the fastest setting that reaches the target, with its curve in the manifest."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.run_parts import towers

from scalingnote_jax.config import IndexConfig, MeshConfig
from scalingnote_jax.config.values import read_workdir_config
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.retrieval.build_index import TuningQueries, build_index
from scalingnote_jax.retrieval.exact import exact_search, overlap
from scalingnote_jax.retrieval.scann.scann_index import ScannIndex, index_facts
from scalingnote_jax.retrieval.tuning import Held, Point, choose, curve, merit, steps_to, without
from scalingnote_jax.vectors.encoder import load_encoder
from scalingnote_jax.vectors.store import StoreWriter, VectorStore
from scalingnote_jax.workflow.workdir import Workdir

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
    slow, fast, poor = point(0.99, 10.0), point(0.95, 50.0), point(0.9, 90.0)
    assert choose([slow, fast, poor], 0.95) is fast
    assert choose([slow, fast, poor], 0.999) is slow


def test_recall_must_be_two_standard_errors_above_the_target() -> None:
    shares = np.array([1.0] * 24 + [0.0])  # mean .96, std sqrt(.96 · .04), of 25 queries
    best = np.zeros((25, 1), int)
    held = Held(np.zeros((25, 2), np.float32), best, None, "queries", (1,))
    recall, error, _ = held.recall(1, lambda q, k: (1 - shares[:, None]).astype(int))
    assert (recall, error) == pytest.approx((0.96, (0.96 * 0.04) ** 0.5 / 5))  # .0392
    assert Point({}, 1, recall, error, 1.0).reaches(0.96 - 2 * 0.0392)
    assert not Point({}, 1, recall, error, 1.0).reaches(0.96 - 2 * 0.0391)


def test_a_build_is_as_good_as_its_depths_together() -> None:
    both, one = [point(0.96, 40.0), point(0.97, 10.0)], [point(0.96, 900.0), point(0.8, 900.0)]
    assert merit(both, 0.95) == (True, 8.0)  # a search of each takes 1/40 + 1/10 s
    assert merit(one, 0.95) == (False, 0.8)
    assert merit(both, 0.95) > merit(one, 0.95)


def point(recall: float, rate: float, k: int = 10) -> Point:
    return Point({}, k, recall, 0.0, rate)


def test_bisection_finds_the_smallest_that_reaches_the_target() -> None:
    best = np.arange(10)[None]
    held = Held(np.zeros((1, 2), np.float32), best, None, "queries", (10,))

    def search(_: np.ndarray, k: int, wide: int, deep: int) -> np.ndarray:
        found = min(wide, deep, 10)  # recall = found / 10
        return np.concatenate([best[0, :found], np.full(k - found, -1)])[None]

    points = curve(held, 10, search, list(range(1, 21)), [5, 10], 0.7)
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
    recall, error, _ = held.recall(10, lambda q, k: exact_search(q, x, k)[1])
    assert (recall, error) == (1.0, 0.0)


@pytest.mark.slow
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
    build_index(store, cfg, tmp_path / "index", held, (100, 10))
    facts = index_facts(tmp_path / "index")
    chosen = [row for row in facts["tuning"] if row["chosen"]]
    assert [row["k"] for row in chosen] == [10, 100]
    assert chosen[0]["settings"] == facts["settings"]
    for row, depth in zip(chosen, facts["depths"], strict=True):
        assert row["recall"] - 2 * row["recall_error"] >= 0.9 - 1e-4  # both are rounded
        assert depth["reorder"] == row["settings"]["reorder"] >= row["k"] == depth["k"]
        assert depth["leaves_searched"] == row["settings"]["leaves_searched"]
        soar = row["settings"]["soar_lambda"]  # of the build that is kept
        good = [
            r["queries_per_sec"]
            for r in facts["tuning"]
            if r["k"] == row["k"]
            and r["settings"]["soar_lambda"] == soar
            and r["recall"] - 2 * r["recall_error"] >= 0.9
        ]
        assert row["queries_per_sec"] == max(good)
    assert {row["settings"]["soar_lambda"] for row in facts["tuning"]} == {1.5, None}
    assert (facts["target_recall"], facts["tuned_on"]) == (0.9, f"200 {origin}")
    files = [p for p in (tmp_path / "index").rglob("*") if p.is_file() and "scann" in p.parent.name]
    assert facts["disk_bytes"] == sum(p.stat().st_size for p in files)
    # On other queries it finds about as much.
    index = ScannIndex.open(tmp_path / "index", store.fingerprint)
    other = vectors(300, 5)
    exact = exact_search(other, store.vectors(), 100)[1]
    for k in (10, 50, 100):
        assert overlap(exact, index.search(other, k)[1], k) > 0.85


def test_brute_force_and_target_0_are_not_tuned(store: VectorStore, tmp_path: Path) -> None:
    for cfg in (IndexConfig(), IndexConfig(exact_below=0, target_recall=0)):
        build_index(store, cfg, tmp_path / "index", vectors(10, 4))
        assert "tuning" not in json.loads((tmp_path / "index" / "manifest.json").read_text())


def test_candidates_and_leaves_of_a_search_are_those_of_its_depth() -> None:
    depths = [
        {"k": 10, "reorder": 40, "leaves_searched": 3},
        {"k": 100, "reorder": 200, "leaves_searched": 9},
    ]
    index = ScannIndex({"settings": {"kind": "tree_ah", "leaves": 20}, "depths": depths}, [])
    found = {k: index.settings_for(k) for k in (5, 10, 11, 100, 250)}
    assert found == {5: (40, 3), 10: (40, 3), 11: (200, 9), 100: (200, 9), 250: (500, 9)}
    # Not tuned: --index.reorder is for a search for 10
    plain = {"kind": "tree_ah", "leaves": 20, "leaves_searched": 4, "reorder": 200}
    index = ScannIndex({"settings": plain}, [])
    assert [index.settings_for(k) for k in (1, 10, 100)] == [(200, 4), (200, 4), (2000, 4)]


def test_of_fewer_documents_than_k_all_can_be_found() -> None:
    exact = np.array([[0, 1, 2], [2, 1, 0]])
    assert overlap(exact, exact[:, ::-1], 10) == 1.0
    assert overlap(exact, np.array([[0, 1, 9], [8, 9, 7]]), 10) == pytest.approx((2 / 3 + 0) / 2)


def test_tuning_queries_are_drawn_by_the_seed_not_taken_from_the_front(finished: Path) -> None:
    config, workdir = read_workdir_config(finished), Workdir(finished)
    collection, dev = Collection.open(workdir.data), {"q0-2", "q4-2", "q8-2", "q12-2", "q16-2"}
    assert set(collection.qrels("dev")) == dev
    mesh = make_mesh(MeshConfig(), jax.local_devices()[:1])
    tower = towers(config, workdir).get("teacher", "query")
    encoder = load_encoder(tower, config.encode, mesh)
    every = encoder.unit(encoder.encode([q.text for q in collection.queries if q.id in dev]))

    def drawn(seed: int) -> list[int]:
        found = TuningQueries(tower, workdir.data, config.encode, seed).vectors(2, mesh)
        return [int(np.argmax(every @ vector)) for vector in found]

    draws = {tuple(drawn(seed)) for seed in range(6)}
    assert all(len(set(pair)) == 2 for pair in draws)
    assert len(draws) > 1
    assert drawn(3) == drawn(3)
