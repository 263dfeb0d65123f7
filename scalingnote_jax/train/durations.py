"""Durations as people say them, "200 steps", "3 epochs", "10000 examples", "10%", turned into
steps.
"""

from __future__ import annotations

import math

from scalingnote_jax.config.forms.duration import parse
from scalingnote_jax.errors import bad_input


def steps_of(
    field: str, text: str, *, batch_size: int, steps_per_epoch: int, total_steps: int | None = None
) -> int:
    """A duration in steps, rounded up.

    Args:
        field: the config field, for the error.
        text: "<number> steps | epochs | examples | %".
        batch_size: examples per step.
        steps_per_epoch: steps in one pass over the data.
        total_steps: what "%" is a share of; None where a share makes no sense.

    Raises:
        UserError: another form.
    """
    found = parse(text)
    if found is None or (found[1] == "%" and total_steps is None):
        forms = "'200 steps', '3 epochs', '10000 examples'" + (" or '10%'" if total_steps else "")
        raise bad_input(f"--{field}", repr(text), forms, "give one number with its unit")
    number, unit = found
    steps_per_unit = {
        "step": 1.0,
        "epoch": float(steps_per_epoch),
        "example": 1.0 / batch_size,
        "%": (total_steps or 0) / 100,
    }[unit]
    return math.ceil(round(number * steps_per_unit, 6))
