"""Projections that whiten: what they are of given vectors, and what a stage starts from."""

from __future__ import annotations

import numpy as np
import pytest

from scalingnote_jax.train.start import whitening


def test_white_by_hand() -> None:
    """Mean squares of 9, 4 and 1 along the axes: the longest two, one divided by 3, one by 2."""
    corners = [(3, 2, 1), (3, -2, 1), (-3, 2, -1), (-3, -2, -1), (3, 2, -1), (3, -2, -1)]
    vectors = np.array([*corners, (-3, 2, 1), (-3, -2, 1)], np.float32)
    white = np.abs(whitening(vectors, 2))
    assert white.shape == (3, 2)
    assert white[2] == pytest.approx([0, 0], abs=1e-3)
    assert white[[0, 1], [0, 1]] == pytest.approx([1 / 3, 1 / 2], rel=1e-3)


def test_vectors_of_a_cone_become_white() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(4000, 12)) * np.geomspace(1, 0.05, 12) + 5).astype(np.float32)
    found = vectors @ whitening(vectors, 12)
    squares = found.T @ found / len(found)  # the last directions are held down by the ridge
    assert squares == pytest.approx(np.eye(12), abs=0.12)
