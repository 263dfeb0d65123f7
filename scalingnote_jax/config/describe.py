"""`scalingnote config`: every field with its type, value and meaning, the latter taken from the
comments above and behind it in the dataclasses' own source.
"""

from __future__ import annotations

import ast
import functools
import inspect
import io
import textwrap
import tokenize
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Any

from scalingnote_jax.config import Config
from scalingnote_jax.config.hints import field_hints, in_words, sections
from scalingnote_jax.config.load import load_config
from scalingnote_jax.errors import bad_input, redacted

_WIDTH, _INDENT = 80, "    "
_SECTION = object()  # in place of a value
_NOTE = (
    "Sections that hold the same fields (teacher.query, teacher.doc, distill.student; the optim of "
    "each stage) are listed in full once, after that only what differs."
)


@dataclass(frozen=True)
class Entry:
    """A field as it is listed.

    Attributes:
        of: the dataclass that it belongs to, where the field above may hold several; otherwise "".
        kind: its type and limits in words.
        first: its name in the first place where its dataclass stands.
    """

    name: str
    of: str
    kind: str
    value: Any
    required: bool
    meaning: str
    first: str


def main(parser: ArgumentParser, words: list[str]) -> None:
    """The verb with its words: prints."""
    parser.add_argument("section", nargs="?", default="", help="such as train or train.optim")
    parser.add_argument("--config", help="show the values of this config, instead of the defaults")
    args, overrides = parser.parse_known_args(words)
    if overrides and not args.config:
        raise bad_input(overrides[0], "an override without a config", "--config=FILE", "add it")
    config = load_config(args.config, overrides) if args.config else None
    print(redacted(listing(args.section, config)))


def listing(section: str = "", config: Config | None = None) -> str:
    """The text of the verb, at most 80 columns wide.

    Args:
        section: only fields whose name begins with it; "" for all.
        config: whose values are shown; None for the defaults.

    Raises:
        UserError: no field is of that section.
    """
    name = section.strip(".")
    found = [e for e in entries(config) if f"{e.name}.".startswith(f"{name}." if name else "")]
    if not found:
        known = ", ".join(field.name for field in fields(Config))
        raise bad_input("config", f"no section {section!r}", known, "name one, or leave it out")
    lines: list[str] = []
    values = {(entry.name, entry.of): entry.value for entry in found}
    for entry in found:
        if entry.first != entry.name and (entry.first, entry.of) in values:
            if entry.value == values[entry.first, entry.of] and entry.value is not _SECTION:
                continue
            same = f"as --{entry.first}"
            meaning = f"{entry.meaning}; {same}" if entry.value is _SECTION else same
            entry = replace(entry, kind="", meaning=meaning)
        given = "(no default)" if entry.required else f"= {_shown(entry.value)}"
        given = "" if entry.value is _SECTION else given
        head = f"--{entry.name} {given}" + (f"   [of a {entry.of}]" if entry.of else "")
        lines += textwrap.wrap(head, _WIDTH, subsequent_indent="      ", break_on_hyphens=False)
        for text in (entry.kind and f"({entry.kind})", entry.meaning):
            lines += textwrap.wrap(text, _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT)
    if not name:
        lines += ["", *textwrap.wrap(_NOTE, _WIDTH)]
    return "\n".join(lines)


def entries(config: Config | None = None) -> Iterator[Entry]:
    """Every field; a section stands before its fields, as "NAME.*". Of a field that may hold one of
    several dataclasses and has none, the fields of each with their defaults.
    """
    yield from _entries(Config, config, "", "", {})


def _entries(
    kind: Any, section: Any, prefix: str, of: str, places: dict[Any, str]
) -> Iterator[Entry]:
    """`places`: dataclass → the prefix where it stood first; grows."""
    first = places.setdefault(kind, prefix)
    said, hints = meanings(kind), field_hints(kind)
    for field in fields(kind):
        name, hint, value = f"{prefix}{field.name}", hints[field.name], _value(field, section)
        required = section is None and value is MISSING
        if is_dataclass(value):
            whole = f"{name}.*"
            yield Entry(whole, of, "", _SECTION, False, said[field.name], f"{first}{field.name}.*")
            several = len(sections(hint)) > 1
            mark = type(value).__name__ if several else of
            yield from _entries(type(value), value, f"{name}.", mark, places)
            continue
        yield Entry(name, of, in_words(hint), value, required, said[field.name], first + field.name)
        for option in sections(hint):  # None here
            yield from _entries(option, None, f"{name}.", option.__name__, places)


def _value(field: Any, section: Any) -> Any:
    if section is not None:
        return getattr(section, field.name)
    return field.default if field.default_factory is MISSING else field.default_factory()


def _shown(value: Any) -> str:
    """As it is written on the command line."""
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "(none)"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, str) and not value.strip() else str(value)


@functools.cache
def meanings(kind: Any) -> dict[str, str]:
    """Field → what its comments say: those right above it, then the one behind it."""
    source = textwrap.dedent(inspect.getsource(kind))
    alone, behind = _comments(source)
    found: dict[str, str] = {}
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        above: list[str] = []
        line = node.lineno - 1
        while line in alone:
            above.insert(0, alone[line])
            line -= 1
        last = node.end_lineno or node.lineno
        own = [behind[n] for n in range(node.lineno, last + 1) if n in behind]
        found[node.target.id] = " ".join([*above, *own])
    return found


def _comments(source: str) -> tuple[dict[int, str], dict[int, str]]:
    """Line → comment of those that have a line to themselves, and of the others."""
    lines = source.splitlines()
    alone: dict[int, str] = {}
    behind: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            into = behind if lines[row - 1][:column].strip() else alone
            into[row] = token.string.lstrip("# ")
    return alone, behind
