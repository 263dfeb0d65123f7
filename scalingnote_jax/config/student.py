"""What a student that starts from the trained teacher takes from its query tower's config. Not for
weights: `models/from_teacher.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from scalingnote_jax.config.towers import ENDS, FIRST, Shape, TextConfig, TowerConfig
from scalingnote_jax.errors import bad_input

_FIELD = "--distill.student"


def follows_teacher(student: TowerConfig, teacher: TowerConfig, shape: Shape | None) -> TowerConfig:
    """The student's config with what the teacher decides filled in: shape, tokenizer, pooling,
    projection; and its `text`, if the student has none of its own.

    Args:
        student: one whose weights are "teacher:…".
        teacher: the teacher's query tower.
        shape: the teacher's, as far as it is known.

    Raises:
        UserError: the student's config says something else than the teacher's.
    """
    if student.weights not in (FIRST, ENDS):
        known = f"{FIRST!r} or {ENDS!r}"
        raise bad_input(f"{_FIELD}.weights", repr(student.weights), known, "choose one")
    follows: dict[str, Any] = {
        "shape": shape,
        "tokenizer": teacher.tokenizer or teacher.weights,
        "pooling": teacher.pooling,
        "bidirectional": teacher.bidirectional,
        "projection": teacher.projection,
    }
    for name, value in follows.items():
        given = getattr(student, name)
        if given not in (getattr(TowerConfig(), name), value):
            expected = f"{value}, as in the teacher's query tower"
            raise bad_input(f"{_FIELD}.{name}", str(given), expected, "leave it out")
    text = teacher.text if student.text == TextConfig() else student.text
    return replace(student, text=text, **follows)
