"""What a tower takes from the config of the teacher's query tower: a student that starts from its
trained layers, and a document tower that is the same model. Not for weights: `from_teacher.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from scalingnote_jax.config.towers import (
    ENDS,
    FIRST,
    SAME_MODEL,
    Shape,
    TextConfig,
    TowerConfig,
    TowersConfig,
)
from scalingnote_jax.config.values import field_values
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


def one_model(teacher: TowersConfig) -> TowersConfig:
    """`teacher` with a document tower of weights "query" filled in: the query tower's model, with
    one set of weights for both sides and the document tower's own `text`.

    Raises:
        UserError: the document tower says something else than the query tower.
    """
    query, doc = teacher.query, teacher.doc
    if doc.weights != SAME_MODEL:
        return teacher
    ours, theirs, plain = field_values(doc), field_values(query), field_values(TowerConfig())
    for name, value in ours.items():
        own = name == "weights" or name.startswith("text.")
        if not own and value not in (plain.get(name), theirs.get(name)):
            expected = f"{theirs.get(name)!r}, as weights={SAME_MODEL!r} is the query tower's model"
            raise bad_input(f"--teacher.doc.{name}", repr(value), expected, "leave it out")
    return replace(teacher, doc=replace(query, text=doc.text), share=True)
