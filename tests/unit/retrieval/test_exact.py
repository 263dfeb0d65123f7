"""Exact search against a plain sort, however documents, queries and devices are cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from jax.sharding import Mesh

from scalingnote_jax.config import Config, EvalConfig, ExactConfig, MeshConfig
from scalingnote_jax.config.validate import validate
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.errors import UserError
from scalingnote_jax.retrieval import exact, scan
from scalingnote_jax.retrieval.best import Best
from scalingnote_jax.retrieval.exact import compare, exact_search
from scalingnote_jax.vectors.quantise import quantise
from scalingnote_jax.vectors.store import StoreWriter, VectorStore

SMALL = ExactConfig(block_rows=16, query_block=4, device_rows=32)  # several of each


def whole_numbers(n: int, dim: int, seed: int) -> np.ndarray:
    """Small whole numbers: every dot product is exact, so ties are ties in any order of summing."""
    return np.random.default_rng(seed).integers(-3, 4, size=(n, dim)).astype(np.float32)


def unit_vectors(n: int, dim: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def by_sorting(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = queries @ vectors.T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, axis=1), rows


def meshes() -> dict[str, Mesh | None]:
    return {
        "1": None,
        "2 × 4": make_mesh(MeshConfig(data=2, tensor=4)),
        "8": make_mesh(MeshConfig(slice=2, fsdp=2)),
    }


def test_by_eye() -> None:
    vectors = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    scores, rows = exact_search(np.array([[1, 0]], np.float32), vectors, k=2)
    assert rows.tolist() == [[0, 2]]
    np.testing.assert_allclose(scores, [[1.0, 0.6]], atol=1e-6)
    assert type(scores) is type(rows) is np.ndarray
    assert (scores.dtype, rows.dtype) == (np.float32, np.int32)


@pytest.mark.parametrize("block_rows", [1, 7, 64, 1000])
@pytest.mark.parametrize("device_rows", [50, 1000])
def test_equals_sorting_with_many_ties_however_it_is_cut(block_rows: int, device_rows: int) -> None:
    queries, vectors = whole_numbers(9, 4, seed=1), whole_numbers(150, 4, seed=2)
    wanted_scores, wanted_rows = by_sorting(queries, vectors, 20)
    cfg = ExactConfig(block_rows=block_rows, device_rows=device_rows, query_block=4)
    scores, rows = exact_search(queries, vectors, 20, cfg)
    np.testing.assert_array_equal(scores, wanted_scores)
    np.testing.assert_array_equal(rows, wanted_rows)


@pytest.mark.parametrize("n", [5, 101, 700])  # fewer than devices; one load; several
@pytest.mark.parametrize("mesh", ["2 × 4", "8"])
def test_the_number_of_devices_changes_nothing_not_even_among_equals(n: int, mesh: str) -> None:
    queries, vectors = whole_numbers(5, 4, seed=7), whole_numbers(n, 4, seed=8)
    k = min(n, 40)
    wanted_scores, wanted_rows = by_sorting(queries, vectors, k)
    scores, rows = exact_search(queries, vectors, k, SMALL, meshes()[mesh])
    np.testing.assert_array_equal(rows, wanted_rows)
    np.testing.assert_array_equal(scores, wanted_scores)


def test_the_same_text_twice_comes_in_order_of_row_on_any_mesh() -> None:
    # Real numbers, whose sums are rounded: equal vectors must get equal scores all the same.
    vectors = np.tile(unit_vectors(60, 64, seed=9), (3, 1))
    queries = unit_vectors(7, 64, seed=10)
    found = [exact_search(queries, vectors, 30, SMALL, mesh)[1] for mesh in meshes().values()]
    for rows in found:
        np.testing.assert_array_equal(rows, found[0])
        first = rows.reshape(7, 10, 3)
        np.testing.assert_array_equal(first - first[:, :, :1], np.tile([0, 60, 120], (7, 10, 1)))


@pytest.mark.parametrize("mesh", ["1", "8"])
def test_minus_zero_is_no_less_than_zero(mesh: str) -> None:
    # -1 · 0 is -0.0, and 1 · 0 is 0.0: all score the same
    vectors = np.array([[-1, 0], [1, 0], [-1, 0], [1, 0], [-1, 0]], np.float32)
    scores, rows = exact_search(np.zeros((1, 2), np.float32), vectors, 5, SMALL, meshes()[mesh])
    assert rows.tolist() == [[0, 1, 2, 3, 4]]
    assert not np.signbit(scores).any()


def test_duplicates_come_in_order_of_row_across_blocks() -> None:
    vectors = np.tile(np.array([[1, 0], [0, 1]], np.float32), (6, 1))
    cfg = ExactConfig(block_rows=4)
    _, rows = exact_search(np.array([[1, 0]], np.float32), vectors, 12, cfg)
    assert rows.tolist() == [[0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]]


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("recall_target", [1.0, 0.95])
@pytest.mark.parametrize("mesh", ["1", "8"])
def test_filling_is_never_found(storage, recall_target: float, mesh: str) -> None:
    # All scores are negative, and what a load is filled up with scores 0.
    vectors = -np.ones((5, 3), np.float32)
    cfg = ExactConfig(storage=storage, recall_target=recall_target, block_rows=4)
    scores, rows = exact_search(np.ones((2, 3), np.float32), vectors, 5, cfg, meshes()[mesh])
    assert np.sort(rows).tolist() == [[0, 1, 2, 3, 4]] * 2
    np.testing.assert_allclose(scores, np.full((2, 5), -3.0), atol=1e-5)


@pytest.mark.parametrize("order", ["random", "rising", "falling", "equal", "by topic"])
@pytest.mark.parametrize("k", [1, 20, 300])
def test_one_cpu_finds_the_same_in_any_order_of_the_documents(order: str, k: int) -> None:
    queries, vectors = whole_numbers(6, 4, seed=20), whole_numbers(2500, 4, seed=21)
    vectors += np.random.default_rng(22).integers(-9, 10, size=(2500, 4))
    queries[0] = 0  # equal scores only
    first = vectors @ queries[1]
    places = {
        "rising": np.argsort(first),
        "falling": np.argsort(-first),
        "equal": np.zeros(2500, int),
        "by topic": np.argsort(vectors[:, 0], kind="stable"),
    }
    vectors = vectors[places.get(order, np.arange(2500))]
    wanted_scores, wanted_rows = by_sorting(queries, vectors, k)
    cfg = ExactConfig(block_rows=700, query_block=4, device_rows=1400)
    for mesh in (None, meshes()["8"]):  # one CPU; the way of all other meshes
        scores, rows = exact_search(queries, vectors, k, cfg, mesh)
        np.testing.assert_array_equal(rows, wanted_rows)
        np.testing.assert_array_equal(scores, wanted_scores)


def test_a_block_of_which_all_pass_and_one_of_which_none_does() -> None:
    best, row = Best(1, 2), 0
    for block in (np.arange(500), np.arange(500, 1000), np.zeros(500), np.full(3, 999)):
        best.add(block[None].astype(np.float32), 0, row)
        row += len(block)
    assert best.found()[0].tolist() == [[999, 999]]
    assert best.found()[1].tolist() == [[999, 1500]]


def test_zeros_of_either_sign_are_equal_and_negative_scores_fall() -> None:
    best = Best(1, 4)
    best.add(np.array([[-0.0, -2.5, 0.0, -1e-30]], np.float32), 0, 7)
    assert best.found()[1].tolist() == [[7, 9, 10, 8]]
    np.testing.assert_array_equal(best.found()[0], np.array([[0, 0, -1e-30, -2.5]], np.float32))


def test_one_query_alone_equals_the_same_query_among_many() -> None:
    queries, vectors = whole_numbers(300, 8, seed=3), whole_numbers(100, 8, seed=4)
    scores, rows = exact_search(queries, vectors, 10)  # more than one block of queries
    np.testing.assert_array_equal(rows, by_sorting(queries, vectors, 10)[1])
    for i in (0, 255, 256, 299):
        one_scores, one_rows = exact_search(queries[i : i + 1], vectors, 10)
        np.testing.assert_array_equal(one_rows[0], rows[i])
        np.testing.assert_array_equal(one_scores[0], scores[i])


def test_no_query_gives_empty_results() -> None:
    scores, rows = exact_search(np.empty((0, 4), np.float32), whole_numbers(5, 4, seed=0), 3)
    assert scores.shape == rows.shape == (0, 3)


def test_one_compile_for_all_loads() -> None:
    scan.scan.clear_cache()
    scan.block_scores.clear_cache()
    cfg = ExactConfig(block_rows=100, device_rows=300)
    for name, jitted in (("8", scan.scan), ("1", scan.block_scores)):
        queries, vectors = whole_numbers(600, 4, seed=5), whole_numbers(3001, 4, seed=6)
        exact_search(queries, vectors, 10, cfg, meshes()[name])
        assert jitted._cache_size() == 1


class Watched:
    """Vectors that note which rows are read."""

    def __init__(self, vectors: np.ndarray):
        self.vectors, self.shape, self.read = vectors, vectors.shape, []

    def __getitem__(self, rows: slice) -> np.ndarray:
        part = self.vectors[rows]
        self.read += range(*rows.indices(self.shape[0]))
        return part


def test_each_row_is_read_once_and_no_load_is_larger_than_said() -> None:
    watched = Watched(whole_numbers(700, 4, seed=11))
    exact_search(whole_numbers(9, 4, seed=12), watched, 10, SMALL, meshes()["8"])
    assert sorted(watched.read) == list(range(700))
    loads = exact._Loads.plan(700, 8, SMALL)
    assert (loads.devices, loads.blocks, loads.block) == (8, 2, 15)  # 3 loads of 240 rows


def test_a_store_is_read_by_slices_over_its_shards(tmp_path: Path) -> None:
    vectors = unit_vectors(10, 4, seed=15)
    with StoreWriter(tmp_path / "store", 4, {}, shard_rows=4) as writer:
        writer.add([str(i) for i in range(10)], vectors)
        store = writer.close()
    rows = store.on_disk()
    assert rows.shape == (10, 4)
    for start in range(12):
        for stop in range(start, 13):
            np.testing.assert_array_equal(rows[start:stop], vectors[start:stop])
    _, found = exact_search(vectors, rows, 1, SMALL, meshes()["8"])
    assert found.ravel().tolist() == list(range(10))


def test_the_shards_of_a_store_are_checked_by_those_whose_share_they_are(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", 4, {}, shard_rows=4) as writer:
        writer.add([str(i) for i in range(10)], unit_vectors(10, 4, seed=15))
        writer.close()
    damaged = tmp_path / "store" / "vectors-00001.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    assert len(VectorStore.open(tmp_path / "store", (0, 2))) == 10  # shards 0 and 2
    with pytest.raises(UserError, match=r"vectors-00001\.npy: damaged"):
        VectorStore.open(tmp_path / "store", (1, 2))


def test_int8_by_eye() -> None:
    stored, scale = quantise(np.array([[1.27, -0.5, 0.004], [0, 0, 0]], np.float32), "int8")
    assert stored.dtype == np.int8
    assert stored.tolist() == [[127, -50, 0], [0, 0, 0]]
    np.testing.assert_allclose(scale, [0.01, 1.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("storage", "recall_target", "least_overlap", "largest_error"),
    [
        ("float32", 1.0, 1.0, 0.0),
        # Rounding to bfloat16 is an error of at most 2^-8 of a number, on both sides; scores ≤ 1.
        ("bfloat16", 1.0, 0.95, 2 * 2.0**-8),
        # And half a step of max/127 of a number.
        ("int8", 1.0, 0.9, 2.0**-8 + 0.01),
        ("float32", 0.95, 0.95, 1e-6),
    ],
)
@pytest.mark.parametrize("mesh", ["1", "8"])
def test_compared_with_exact(
    storage, recall_target: float, least_overlap: float, largest_error: float, mesh: str
) -> None:
    queries, vectors = unit_vectors(32, 64, seed=13), unit_vectors(4000, 64, seed=14)
    cfg = ExactConfig(storage=storage, recall_target=recall_target, block_rows=512)
    found = compare(queries, vectors, 20, cfg, meshes()[mesh])
    assert found.overlap >= least_overlap
    assert found.score_error <= largest_error


def test_agreement_by_eye() -> None:
    right = np.array([[0.9, 0.8]]), np.array([[4, 7]])
    other = np.array([[0.85, 0.7]]), np.array([[7, 2]])
    found = exact.agreement(right, other)
    assert found.overlap == 0.5
    assert found.score_error == pytest.approx(0.05)


@pytest.mark.parametrize("k", [0, 6])
def test_k_outside_the_store_is_refused(k: int) -> None:
    with pytest.raises(UserError, match=f"k: {k}; expected 1 to 5"):
        exact_search(whole_numbers(2, 4, seed=0), whole_numbers(5, 4, seed=0), k)


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        (ExactConfig(block_rows=0), "--eval.exact.block_rows: 0; expected 1 or more"),
        (ExactConfig(recall_target=1.5), "--eval.exact.recall_target: 1.5; expected above 0"),
    ],
)
def test_options_out_of_range_are_refused(cfg: ExactConfig, said: str) -> None:
    with pytest.raises(UserError, match=said):
        validate(Config("x", eval=EvalConfig(exact=cfg)))


def test_another_width_is_refused() -> None:
    with pytest.raises(UserError, match="vectors of 3 numbers; expected 4"):
        exact_search(whole_numbers(2, 3, seed=0), whole_numbers(5, 4, seed=0), 1)
