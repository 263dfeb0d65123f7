"""The types of a config's fields as data: choices, limits, how they are said in words.

Not for rules over several fields: see the files of `rules/`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from typing import Annotated, Any, Literal

from scalingnote_jax.config.limits import Limit

_WORDS = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}


def field_hints(kind: Any) -> dict[str, Any]:
    """Field → type of a dataclass, limits included."""
    return _field_hints(kind)


@functools.cache
def _field_hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def options(hint: Any) -> tuple[Any, ...]:
    """The members of a union; a type that is none is its own."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def sections(hint: Any) -> tuple[Any, ...]:
    """The dataclasses that a field may hold."""
    return tuple(option for option in options(hint) if dataclasses.is_dataclass(option))


def item_of(hint: Any) -> Any:
    """The type of a tuple's items; None for what is no tuple."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else None


def choices(hint: Any) -> tuple[str, ...]:
    """The words that a field, or each item of it, is one of; () where any are allowed."""
    item = item_of(hint)
    if item is not None:
        return choices(item)
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


def _limits(hint: Any) -> tuple[Any, tuple[Limit, ...]]:
    if typing.get_origin(hint) is Annotated:
        kind, *found = typing.get_args(hint)
        return kind, tuple(found)
    return hint, ()


def in_words(hint: Any, short: bool = False) -> str:
    """What a value of the type is; `short`: without the kind of number or text where a limit says
    it already.
    """
    if len(options(hint)) > 1:
        return " or ".join(in_words(option, short) for option in options(hint))
    if hint is type(None):
        return "None"
    item = item_of(hint)
    if item is not None:
        return f"a list, each {in_words(item, short)}"
    if typing.get_origin(hint) is Literal:
        return f"one of {typing.get_args(hint)}"
    kind, limits = _limits(hint)
    said = [limit.expected for limit in limits]
    if dataclasses.is_dataclass(kind):
        return f"a {kind.__name__}"  # type: ignore[union-attr]
    if said and (short or kind is str):
        return ", ".join(said)
    return ", ".join([_WORDS[kind], *said])


def expected_instead(hint: Any, value: Any) -> str | None:
    """What should stand there, if the type does not allow `value`; None if it does."""
    if len(options(hint)) > 1:
        wrong = all(expected_instead(option, value) for option in options(hint))
        return in_words(hint, short=_is_number(value)) if wrong else None
    item = item_of(hint)
    if item is not None:
        if not isinstance(value, tuple):
            return in_words(hint)
        wrong = any(expected_instead(item, one) for one in value)
        return in_words(hint, short=all(map(_is_number, value))) if wrong else None
    if typing.get_origin(hint) is Literal:
        known = isinstance(value, str) and value in typing.get_args(hint)
        return None if known else in_words(hint)
    kind, limits = _limits(hint)
    if not _is_of(kind, value):
        return in_words(hint)
    return next((limit.expected for limit in limits if not limit.holds(value)), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_of(kind: Any, value: Any) -> bool:
    if kind is float:
        return _is_number(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)
