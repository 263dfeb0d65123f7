"""Intervals that cover, p values that are uniform where nothing differs, Holm by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from scalingnote_jax.evaluate.statistics import (
    compare_rows,
    holm,
    interval,
    ratio_interval,
    resampled_means,
    sign_flips,
)


def test_resampled_means_are_those_of_drawn_queries() -> None:
    values = np.array([[[0.0], [0.0], [1.0]], [[1.0], [1.0], [0.0]]])
    means = resampled_means(values, seed=0, resamples=600)
    assert means.shape == (600, 2, 1)
    np.testing.assert_allclose(means[:, 0] + means[:, 1], 1.0)  # both rows of the same draws
    share = np.bincount(np.rint(3 * means[:, 0, 0]).astype(int), minlength=4) / 600
    np.testing.assert_allclose(share, [8 / 27, 12 / 27, 6 / 27, 1 / 27], atol=0.06)
    np.testing.assert_array_equal(means, resampled_means(values, seed=0, resamples=600))


@pytest.mark.parametrize("kind", ["hit or miss", "skewed"])
def test_intervals_cover_at_the_stated_rate(kind: str) -> None:
    """400 trials of 100 queries: 95 % ± 3 standard errors, with 1 % for the percentile method's
    known lack at this size.
    """
    rng = np.random.default_rng(1)
    inside = 0
    for trial in range(400):
        values = rng.random(100) < 0.4 if kind == "hit or miss" else rng.beta(0.5, 1.0, 100)
        low, high = interval(resampled_means(values[None, :, None] * 1.0, trial, 1000)[:, 0, 0])
        inside += low <= (0.4 if kind == "hit or miss" else 1 / 3) <= high
    assert 0.94 - 0.033 <= inside / 400 <= 0.95 + 0.033


def test_the_interval_of_a_ratio_uses_that_both_have_the_same_queries() -> None:
    teacher = np.random.default_rng(0).random(200)
    means = resampled_means(np.stack([0.9 * teacher, teacher])[..., None], seed=0)[..., 0]
    assert ratio_interval(means[:, 0], means[:, 1]) == pytest.approx([0.9, 0.9])
    low, high = ratio_interval(np.array([1.0, 1.0, 1.0]), np.array([0.0, 2.0, 2.0]))
    assert (low, high) == (0.5, 0.5)


def test_p_is_the_share_of_all_sign_patterns() -> None:
    a, b = np.array([0.9, 0.8, 0.7, 0.3]), np.array([0.1, 0.2, 0.6, 0.4])
    d = a - b
    patterns = np.array(list(itertools.product((1, -1), repeat=4)))
    exact = np.mean(np.abs(patterns @ d) >= abs(d.sum()) - 1e-9)
    # By hand: differences .8 .6 .1 −.1; no sign turned, the last, the last two; and all mirrored.
    assert exact == 6 / 16
    p = sign_flips(np.stack([a, b])[..., None], seed=0)
    assert p[0, 1, 0] == p[1, 0, 0]
    assert p[0, 1, 0] == pytest.approx(exact, abs=0.015)


def test_p_is_never_zero_and_one_without_a_difference() -> None:
    rows = np.stack([np.ones(50), np.zeros(50), np.zeros(50)])[..., None]
    p = sign_flips(rows, seed=0, flips=999)
    assert p[0, 1, 0] == 1 / 1000
    assert p[1, 2, 0] == 1.0


def test_p_is_uniform_where_nothing_differs() -> None:
    rng = np.random.default_rng(0)
    rows = rng.random((2, 40, 500))  # 500 pairs of systems that are equally good
    p = sign_flips(rows, seed=1, flips=1000)[0, 1]
    for level in (0.05, 0.25, 0.5, 0.75):
        sd = np.sqrt(level * (1 - level) / 500)
        assert np.mean(p <= level) == pytest.approx(level, abs=3.5 * sd)


def test_holm_by_hand() -> None:
    # Sorted .01, .02, .03, .04 times 4, 3, 2, 1: .04, .06, .06, .04, and never falling.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_comparisons_have_a_family_for_each_metric() -> None:
    rng = np.random.default_rng(0)
    values = np.stack([rng.random((60, 2)), rng.random((60, 2)), 2 + rng.random((60, 2))])
    found = compare_rows(values, ["x/exact", "y/exact", "z/exact"], ["A", "B"], seed=0)
    assert [(f["a"][0], f["b"][0], f["metric"]) for f in found] == [
        ("y", "x", "A"),
        ("z", "x", "A"),
        ("z", "y", "A"),
        ("y", "x", "B"),
        ("z", "x", "B"),
        ("z", "y", "B"),
    ]
    means = values.mean(axis=1)
    assert found[1]["difference"] == pytest.approx(means[2, 0] - means[0, 0])
    for family in (found[:3], found[3:]):
        assert [f["p_holm"] for f in family] == holm([f["p"] for f in family])
        assert family[1]["p_holm"] == pytest.approx(3 / 10_001)
    assert compare_rows(values[:1], ["x/exact"], ["A", "B"], seed=0) == []
