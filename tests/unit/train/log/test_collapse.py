"""Towers that give all texts the same vector, and towers that do not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from scalingnote_jax.train.log.collapse import CollapseAlarm, collapsed, spread_figures


def record(raw: jax.Array, side: str = "query") -> dict[str, float]:
    figures = spread_figures(side, raw)
    return {name: float(total / count) for name, (total, count) in figures.items()}


def test_axes_are_spread_evenly():
    both = jnp.concatenate([jnp.eye(8), -jnp.eye(8)])
    figures = record(both)
    # Each row has cosine -1 to one of the 15 others, 0 to the rest
    assert figures["query_pair_cosine"] == pytest.approx(-1 / 15, abs=1e-6)
    assert figures["query_deviation"] == pytest.approx(1.0, abs=1e-6)
    assert collapsed(figures) == {}


def test_the_same_vector_for_all_is_a_collapse():
    figures = record(jnp.ones((16, 8)) * jnp.arange(1, 17)[:, None], "doc")
    assert figures["doc_pair_cosine"] == pytest.approx(1.0, abs=1e-6)
    assert figures["doc_deviation"] == pytest.approx(0.0, abs=1e-6)
    assert collapsed(figures) == {"doc": "the mean cosine of two different texts is 1.0000"}


def test_a_narrow_cone_is_no_collapse():
    """What LLM towers give before training."""
    noise = jax.random.normal(jax.random.key(0), (64, 32))
    figures = record(jnp.sqrt(32.0) * jnp.eye(32)[0] * 3 + noise)
    assert 0.85 < figures["query_pair_cosine"] < 0.95
    assert collapsed(figures) == {}


def test_a_student_of_few_directions_is_named_beside_its_teacher():
    found = collapsed({"student_rank": 4.0, "teacher_rank": 40.0})
    assert found == {"student": "its vectors lie in 4.0 directions, its teacher's in 40.0"}
    assert collapsed({"student_rank": 20.0, "teacher_rank": 40.0}) == {}


def test_a_student_narrower_than_a_narrow_teacher_is_named():
    found = collapsed({"student_pair_cosine": 0.985, "teacher_pair_cosine": 0.8})
    assert found["student"].endswith("is 0.9850, its teacher's 0.8000")
    assert collapsed({"student_pair_cosine": 0.9, "teacher_pair_cosine": 0.8}) == {}


def test_one_vector_has_no_spread():
    assert spread_figures("query", jnp.ones((1, 4))) == {}


def test_the_alarm_is_said_once_and_noted_in_each_record():
    alarm = CollapseAlarm("train", 100)
    early, first, second = ({"step": s, "doc_pair_cosine": 0.999} for s in (5, 50, 60))
    assert list(alarm.look(early)) == []  # before a tenth of the steps, towers are as they came
    (line,) = alarm.look(first)
    assert line.startswith("train, step 50: the doc tower has collapsed")
    assert list(alarm.look(second)) == []
    assert ("collapsed" in early, first["collapsed"], second["collapsed"]) == (
        False,
        ["doc"],
        ["doc"],
    )
