"""Durations in steps: batches of 10, 7 steps to an epoch, a run of 40 steps."""

from __future__ import annotations

import pytest

from scalingnote_jax.errors import UserError
from scalingnote_jax.train.durations import steps_of


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("12 steps", 12),
        ("1 step", 1),
        ("3 epochs", 21),
        ("1.5 epochs", 11),  # 10.5
        ("100 examples", 10),
        ("101 examples", 11),
        ("10%", 4),
        ("1%", 1),  # 0.4
        ("0 steps", 0),
        ("0.1 epochs", 1),
    ],
)
def test_in_steps(text: str, steps: int) -> None:
    given = {"batch_size": 10, "steps_per_epoch": 7, "total_steps": 40}
    assert steps_of("x", text, **given) == steps


def test_all_of_a_run_is_not_a_step_more() -> None:
    assert 100 * (7 / 100) > 7  # in floating point
    assert steps_of("x", "100%", batch_size=1, steps_per_epoch=7, total_steps=7) == 7


@pytest.mark.parametrize(
    ("text", "total", "says"),
    [
        ("10", 40, "--train.x: '10'; expected '200 steps', '3 epochs', '10000 examples' or '10%';"),
        ("10%", None, "--train.x: '10%'; expected '200 steps', '3 epochs', '10000 examples'; give"),
        ("-1 steps", 40, "'-1 steps'"),
    ],
)
def test_other_forms_are_refused(text: str, total: int | None, says: str) -> None:
    with pytest.raises(UserError) as error:
        steps_of("train.x", text, batch_size=10, steps_per_epoch=7, total_steps=total)
    assert says in str(error.value)
