"""Exact search against a plain sort, whatever the block sizes."""

from __future__ import annotations

import numpy as np
import pytest

from scalingnote_jax.config import MeshConfig
from scalingnote_jax.errors import UserError
from scalingnote_jax.mesh import make_mesh
from scalingnote_jax.retrieval import exact
from scalingnote_jax.retrieval.exact import exact_search


def whole_numbers(n: int, dim: int, seed: int) -> np.ndarray:
    """Small whole numbers: every dot product is exact, so ties are ties in any order of summing."""
    return np.random.default_rng(seed).integers(-3, 4, size=(n, dim)).astype(np.float32)


def by_sorting(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = queries @ vectors.T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, axis=1), rows


def test_by_eye() -> None:
    vectors = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    scores, rows = exact_search(np.array([[1, 0]], np.float32), vectors, k=2)
    assert rows.tolist() == [[0, 2]]
    np.testing.assert_allclose(scores, [[1.0, 0.6]], atol=1e-6)
    assert type(scores) is type(rows) is np.ndarray
    assert (scores.dtype, rows.dtype) == (np.float32, np.int32)


@pytest.mark.parametrize("block_rows", [1, 7, 50, 64, 1000])
def test_equals_sorting_with_many_ties_at_any_block_size(block_rows: int) -> None:
    queries, vectors = whole_numbers(9, 4, seed=1), whole_numbers(150, 4, seed=2)
    wanted_scores, wanted_rows = by_sorting(queries, vectors, 20)
    scores, rows = exact_search(queries, vectors, 20, block_rows)
    np.testing.assert_array_equal(scores, wanted_scores)
    np.testing.assert_array_equal(rows, wanted_rows)


def test_duplicates_come_in_order_of_row_across_blocks() -> None:
    vectors = np.tile(np.array([[1, 0], [0, 1]], np.float32), (6, 1))
    _, rows = exact_search(np.array([[1, 0]], np.float32), vectors, k=12, block_rows=4)
    assert rows.tolist() == [[0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]]


def test_padding_never_wins_over_negative_scores() -> None:
    vectors = -np.ones((5, 3), np.float32)
    scores, rows = exact_search(np.ones((2, 3), np.float32), vectors, k=5, block_rows=4)
    assert rows.tolist() == [[0, 1, 2, 3, 4]] * 2
    np.testing.assert_array_equal(scores, np.full((2, 5), -3.0))


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


def test_one_compile_for_all_blocks() -> None:
    exact._merge.clear_cache()
    exact_search(whole_numbers(600, 4, seed=5), whole_numbers(1001, 4, seed=6), 10, block_rows=100)
    assert exact._merge._cache_size() == 1


@pytest.mark.parametrize("k", [0, 6])
def test_k_outside_the_store_is_refused(k: int) -> None:
    with pytest.raises(UserError, match=f"k: {k}; expected 1 to 5"):
        exact_search(whole_numbers(2, 4, seed=0), whole_numbers(5, 4, seed=0), k)


def test_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(q, 4\)"):
        exact_search(whole_numbers(2, 3, seed=0), whole_numbers(5, 4, seed=0), 1)


def test_a_mesh_finds_the_same():
    rng = np.random.default_rng(7)
    queries, vectors = (rng.normal(size=(n, 8)).astype(np.float32) for n in (5, 101))
    mesh = make_mesh(MeshConfig(data=2, tensor=4))
    scores, rows = exact_search(queries, vectors, 10, block_rows=30)
    mesh_scores, mesh_rows = exact_search(queries, vectors, 10, block_rows=30, mesh=mesh)
    np.testing.assert_array_equal(mesh_rows, rows)
    np.testing.assert_allclose(mesh_scores, scores, atol=1e-5)
