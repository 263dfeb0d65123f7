"""What is watched while the student learns: figures by hand, and when a probe is due."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scalingnote_jax.train.probe import Probe, alarms, cone, effective_rank, mean_unit, pair_cosine
from scalingnote_jax.train.state import TrainState
from scalingnote_jax.vectors.encoder import unit_rows
from scalingnote_jax.vectors.store import StoreWriter, VectorStore

TOLERANCE = 1e-5


def test_pair_cosine_by_hand() -> None:
    # Cosines of the three pairs: 0.6, 0 and 0.8.
    rows = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)
    assert pair_cosine(rows) == pytest.approx((0.6 + 0.8) / 3, abs=TOLERANCE)


def test_effective_rank_counts_directions() -> None:
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32)
    assert effective_rank(corners) == pytest.approx(2.0, abs=TOLERANCE)
    assert effective_rank(corners + 5) == pytest.approx(2.0, abs=TOLERANCE)  # the mean is no matter
    # Variances 9 and 1: (9 + 1)² / (81 + 1).
    assert effective_rank(corners * [3, 1]) == pytest.approx(100 / 82, abs=TOLERANCE)
    assert effective_rank(np.ones((4, 2), np.float32)) == 0.0


def test_a_student_that_says_always_the_same_has_a_high_cosine_and_no_centred_one() -> None:
    rng = np.random.default_rng(0)
    teacher = (rng.normal(size=(64, 16)) / 4 + 3).astype(np.float32)  # a narrow cone
    mean = mean_unit(teacher)
    lost = np.tile(mean, (64, 1)) + 1e-3 * rng.normal(size=(64, 16)).astype(np.float32)
    figures = {name: float(x) for name, x in cone(lost, teacher, mean).items()}
    plain = (unit_rows(lost) * unit_rows(teacher)).sum(1).mean()
    assert plain > 0.99
    assert abs(figures["centred_cosine"]) < 0.1
    assert figures["student_pair_cosine"] > 0.999 > figures["teacher_pair_cosine"] > 0.98
    itself = cone(teacher, teacher, mean)
    assert itself["centred_cosine"] == pytest.approx(1.0, abs=TOLERANCE)
    assert itself["student_rank"] == itself["teacher_rank"]
    assert 8 < itself["teacher_rank"] < 16


def test_mean_unit_by_hand() -> None:
    found = mean_unit(np.array([[3.0, 0.0], [0.0, 0.5]], np.float32))
    np.testing.assert_allclose(found, [0.5, 0.5], atol=TOLERANCE)


def make_probe(tmp_path: Any, teacher: np.ndarray, student: np.ndarray, **steps: int) -> Probe:
    """A probe of a student whose vectors are given, over 40 documents."""
    rng = np.random.default_rng(1)
    vectors = unit_rows(rng.normal(size=(40, 8)).astype(np.float32))
    with StoreWriter(tmp_path / "store", 8, {}, 16) as writer:
        writer.add([f"d{i}" for i in range(40)], vectors)
        writer.close()
    store = VectorStore.open(tmp_path / "store")
    return Probe(lambda params: student * params["w"], teacher, mean_unit(teacher), store, **steps)


def test_overlap_with_the_teacher_over_the_frozen_documents(tmp_path: Any) -> None:
    rng = np.random.default_rng(2)
    teacher = rng.normal(size=(6, 8)).astype(np.float32)
    student = teacher.copy()
    student[:3] *= -1  # three of six find the worst instead of the best
    probe = make_probe(tmp_path, teacher, student, every=4, log_every=2, total=9)
    state: Any = TrainState(0, {"student/w": 1.0}, {}, None)
    assert probe(2, state) == {}
    figures = probe(4, state)
    assert figures["heldout_overlap@10"] == pytest.approx(0.5)
    assert set(figures) >= {"heldout_centred_cosine", "heldout_student_rank"}


def test_when_a_probe_is_due(tmp_path: Any) -> None:
    teacher = np.random.default_rng(3).normal(size=(4, 8)).astype(np.float32)
    probe = make_probe(tmp_path, teacher, teacher, every=50, log_every=20, total=190)
    logged = [*range(20, 190, 20), 190]
    # The first log step at or behind 50, 100, 150, and the end.
    assert [step for step in logged if probe.due(step)] == [60, 100, 160, 190]


def looks(overlaps: list[float], rank: float = 15.0) -> list[dict[str, Any]]:
    """Records of a training: a look at every second log step."""
    records: list[dict[str, Any]] = []
    for overlap in overlaps:
        figures = {"heldout_student_rank": rank, "heldout_teacher_rank": 17.0}
        records += [{"loss": 1.0}, {"loss": 1.0, "heldout_overlap@10": overlap} | figures]
    return records


@pytest.mark.parametrize(
    ("records", "says"),
    [
        # A student that kept 76 % of its teacher's recall, and one that kept 99 %
        (looks([*[0.3] * 6, 0.31, 0.61, 0.47], rank=9.0), ["47%", "31% and 61%", "0.53"]),
        (looks([0.2, 0.5, 0.8, 0.91, 0.92, 0.92]), []),
        (looks([0.2, 0.5, 0.6, 0.68, 0.69, 0.69]), ["69%"]),
        (looks([0.9, 0.9, 0.9, 0.95, 0.83, 0.95]), ["83% and 95%"]),
        (looks([0.9], rank=10.0), ["0.59"]),
        ([{"loss": 1.0}], []),  # nobody watched
        ([{"heldout_student_rank": 16.0, "heldout_teacher_rank": 17.0}], []),  # no documents
        ([], []),
    ],
)
def test_alarms(records: list[dict[str, Any]], says: list[str]) -> None:
    found = alarms(records)
    assert len(found) == len(says)
    assert all(part in alarm for part, alarm in zip(says, found, strict=True))
