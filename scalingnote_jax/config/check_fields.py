"""Each field of a config, or of a part of it, against its type: choices, numbers in their limits.

Not for rules over several fields: see the files of `rules/`.
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from scalingnote_jax.config.hints import (
    choices,
    expected_instead,
    field_hints,
    item_of,
)
from scalingnote_jax.errors import bad_input


def check_fields(section: Any, prefix: str = "") -> None:
    """
    Args:
        section: a dataclass of the config.
        prefix: what its fields' names begin with, such as "train.".

    Raises:
        UserError: a value of another type, no choice of the field's, outside of its limits, or not
            finite.
    """
    for field in dataclasses.fields(section):
        name, value = f"{prefix}{field.name}", getattr(section, field.name)
        hint = field_hints(type(section))[field.name]
        expected = expected_instead(hint, value)
        if expected is not None:
            given = repr(value) if isinstance(value, str | tuple | list) else str(value)
            raise bad_input(f"--{name}", given, expected, fix_for(name, hint, value, field.default))
        if dataclasses.is_dataclass(value):
            check_fields(value, f"{name}.")


def fix_for(name: str, hint: Any, value: Any, default: Any) -> str:
    """What to do next: the word that was probably meant, how a list is written, or the default."""
    known = choices(hint)
    for word in value if isinstance(value, tuple) else (value,):
        near = difflib.get_close_matches(str(word), known, n=1) if word not in known else []
        if near:
            return f"did you mean {near[0]!r}?"
    if item_of(hint) is not None:
        return f"separate by commas: {list_example(name, hint, default)}"
    if known:
        return "choose one"
    has_default = default not in (dataclasses.MISSING, "")
    return f"the default is {default}" if has_default else "change it"


def list_example(name: str, hint: Any, default: Any) -> str:
    """How a tuple is written on the command line, such as --eval.systems=bm25,untrained."""
    items = choices(hint)[:2] or (default if isinstance(default, tuple) else ())
    return f"--{name}={','.join(map(str, items)) or 'A,B'}"
