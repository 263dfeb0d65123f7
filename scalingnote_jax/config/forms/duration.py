"""How durations are written: "200 steps", "3 epochs", "10000 examples", "10%".

Only the grammar: what a duration is in steps is worked out by `train/durations.py`.
"""

from __future__ import annotations

import re

UNITS = ("step", "epoch", "example", "%")
_FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(steps?|epochs?|examples?|%)\s*")


def parse(text: str) -> tuple[float, str] | None:
    """The number and the unit, one of `UNITS`; None for a text of another form."""
    match = _FORM.fullmatch(text)
    return (float(match[1]), match[2].rstrip("s")) if match else None
