"""JSON files that somebody else may have written: read whole, and checked against a form, or
refused in one line. After that each value has the type that the code relies on.

A form is a type (`str`, `int`, `float`, `bool`; `object` is anything), a `Rule`, `[form]` for a
list, `Each(form)` for an object with any names, or {"name": form} for one with these names, where
"name?" may be absent. Further names are allowed. Not for what the values mean: their readers check.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from scalingnote_jax.errors import bad_input

_SHOWN = 60  # characters of a value, in a message
_DIGITS = 400  # of a number: Python's own limit is for integers alone


@dataclass(frozen=True)
class Rule:
    """A form for values that `test` accepts; `words` says what they are."""

    words: str
    test: Callable[[Any], bool]


@dataclass(frozen=True)
class Each:
    """An object with any names, or with such as `names` accepts; each value has this form."""

    form: Any
    names: Rule | None = None


@dataclass(frozen=True)
class Maybe:
    """null, or this form."""

    form: Any


class Misfit(ValueError):
    """A value that has not its form: says where it stands and what it should be."""


def _is_name(value: Any) -> bool:
    if not isinstance(value, str) or value in ("", ".", "..") or len(value) > 255:
        return False
    return not re.search(r"[/\\\x00-\x1f\x7f\ud800-\udfff]", value)


def _is_path(value: Any) -> bool:
    if not isinstance(value, str) or len(value) > 4096:
        return False
    return PurePosixPath(value).as_posix() == value and all(map(_is_name, value.split("/")))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


NAME = Rule("a file name without a path", _is_name)
PATH = Rule("a path inside the folder", _is_path)
COUNT = Rule("a number of 0 or more", _is_count)
POSITIVE = Rule("a number of 1 or more", lambda x: _is_count(x) and x > 0)
SHA256 = Rule(
    "a SHA-256 in hex", lambda x: isinstance(x, str) and bool(re.fullmatch("[0-9a-f]{64}", x))
)

_WORDS = {str: "text", int: "an integer", float: "a finite number", bool: "true or false"}


def conform(value: Any, form: Any, at: str = "") -> None:
    """Checks a value against a form.

    Args:
        at: where it stands, as "parts[0].files".

    Raises:
        Misfit: it has another form.
    """
    if isinstance(form, dict):
        _expect(isinstance(value, dict), value, at, "an object")
        for name, inner in form.items():
            key = name.removesuffix("?")
            if key in value:
                conform(value[key], inner, f"{at}.{key}" if at else key)
            elif key == name:
                raise Misfit(f"{at or 'the object'} lacks {key!r}")
    elif isinstance(form, list):
        _expect(isinstance(value, list), value, at, "a list")
        for number, item in enumerate(value):
            conform(item, form[0], f"{at}[{number}]")
    elif isinstance(form, Each):
        _expect(isinstance(value, dict), value, at, "an object")
        for name, item in value.items():
            if form.names is not None:
                _expect(form.names.test(name), name, f"a name in {at or 'it'}", form.names.words)
            conform(item, form.form, f"{at}.{name}" if at else name)
    elif isinstance(form, Maybe):
        if value is not None:
            conform(value, form.form, at)
    elif isinstance(form, Rule):
        _expect(form.test(value), value, at, form.words)
    elif form is not object:
        _expect(_is_a(value, form), value, at, _WORDS[form])


def _is_a(value: Any, kind: type) -> bool:
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(value) < 2**1000 and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, kind)


def _expect(fits: bool, value: Any, at: str, words: str) -> None:
    if not fits:
        text = repr(value) if not isinstance(value, dict | list) else f"a {type(value).__name__}"
        cut = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        raise Misfit(f"{at or 'the whole'} is {cut}, not {words}")


def parse(text: str | bytes, form: Any = object) -> Any:
    """JSON text as a value of that form.

    Raises:
        Misfit: it is no JSON, is nested too deeply, or has another form.
    """
    try:
        value = json.loads(text, parse_int=_integer)
    except RecursionError:
        raise Misfit("it is nested too deeply") from None
    except ValueError as e:  # no JSON, or no UTF-8
        raise Misfit(f"it is not JSON ({str(e)[:200]})") from None
    conform(value, form)
    return value


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def read_json(path: Path, form: Any, expected: str, fix: str) -> Any:
    """A JSON file as a value of that form.

    Args:
        expected, fix: of the error.

    Raises:
        UserError: it is not there, cannot be read, is no JSON, or has another form.
    """
    try:
        return parse(path.read_bytes(), form)
    except (FileNotFoundError, NotADirectoryError):
        raise bad_input(str(path), "not there", expected, fix) from None
    except OSError as e:
        raise bad_input(str(path), f"cannot be read ({e.strerror})", expected, fix) from e
    except Misfit as e:
        raise bad_input(str(path), str(e), expected, fix) from e
