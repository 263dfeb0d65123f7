"""Checks of single records, the same for every source: ids, texts, grades, judgements.

`where` is the place that an error names, `file:line` for files. Not for what needs all records at
once: see `survey.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from scalingnote_jax.data.sources.base import Qrels
from scalingnote_jax.errors import bad_input
from scalingnote_jax.progress import say

Judgement = tuple[str, str, str, int]
"""Place, query id, document id, grade as it is written: it may be below 0."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,9}(\.0*)?")


class Ids:
    """The ids that one pass over a file has met, so that none comes twice."""

    def __init__(self, name: str):
        """`name`: what the file calls an id."""
        self._name = name
        self._lines: dict[str, int] = {}

    def check(self, where: str, found: Any) -> str:
        """`found`, if it is a new and usable id: a text, or an integer, which is written out.
        `where` ends in the number of the line.
        """
        if isinstance(found, int) and not isinstance(found, bool):
            found = str(found)
        if not isinstance(found, str):
            given = f"the {self._name} is of type {type(found).__name__}"
            raise bad_input(where, given, "a text or an integer", "write the id as a text")
        if not found or any(c.isspace() for c in found):
            fix = "give the record an id without spaces (TREC files part their columns by them)"
            given = f"the {self._name} {found!r}"
            raise bad_input(where, given, "an id without white space", fix)
        _utf8_bytes(where, self._name, found)
        line = int(where.rpartition(":")[2])
        first = self._lines.setdefault(found, line)
        if first != line:
            given = f"the {self._name} {found!r} again, first seen on line {first}"
            raise bad_input(where, given, "ids that occur once", "remove or rename one of the two")
        return found


def field_of(where: str, record: dict[str, Any], field: str) -> Any:
    """The value of a field that has to be there."""
    if field not in record:
        given = f"no field {field!r} (fields: {', '.join(map(repr, record)) or 'none'})"
        raise bad_input(where, given, f"{field!r} with a text", "add it, or export the file again")
    return record[field]


def checked_text(where: str, name: str, text: Any, max_bytes: int) -> str:
    """`text`, if it is one and no longer than `--data.max_text_bytes`. It may be empty, and null is
    an empty one.
    """
    if text is None:
        return ""
    if not isinstance(text, str):
        given = f"the field {name!r} is of type {type(text).__name__}"
        raise bad_input(where, given, "a text", "write the value as a text (in JSON: in quotes)")
    size = _utf8_bytes(where, name, text)
    if size > max_bytes:
        raise bad_input(
            where,
            f"a {name} of {size:,} bytes",
            f"at most {max_bytes:,} (--data.max_text_bytes)",
            "split or shorten it, or raise the limit if such texts are meant",
        )
    return text


def query_text(where: str, query_id: str, text: str) -> str:
    """`text`, if there is anything in it."""
    if not text.strip():
        fix = "remove the query and its judgements"
        raise bad_input(where, f"query {query_id!r} is empty", "a text", fix)
    return text


def is_grade(text: str) -> bool:
    """Whether it is a whole number, which may be written as a decimal one: 1.0."""
    return _WHOLE.fullmatch(text.strip()) is not None


def grade_of(where: str, grade: Any) -> int:
    """A grade as it is written, a text or a number: a whole number, also below 0."""
    if isinstance(grade, bool) or not is_grade(str(grade)):
        fix = "use whole numbers: above 0 is relevant, the others are not"
        raise bad_input(where, f"the score {grade!r}", "a whole number", fix)
    return int(float(grade))


def qrels_of(judgements: Iterable[Judgement]) -> Qrels:
    """All judgements of a split; a pair may be repeated, with the same grade. Grades below 0, such
    as TREC's for spam, count as 0, and that is said.
    """
    found: Qrels = {}
    below, where = 0, ""
    for where, query_id, doc_id, written in judgements:
        below += written < 0
        grade = max(written, 0)
        grades = found.setdefault(query_id, {})
        if grades.setdefault(doc_id, grade) != grade:
            given = f"{query_id} {doc_id} has grade {grade}, but {grades[doc_id]} further up"
            raise bad_input(where, given, "one grade for each pair", "remove one of the lines")
    if below:
        say(f"{where.rpartition(':')[0]}: {below:,} grades below 0 count as 0")
    return found


def place_of(judgements: Iterable[Judgement], query_id: str, doc_id: str) -> str:
    """The place of a judgement that is among them."""
    return next(where for where, *pair, _ in judgements if pair == [query_id, doc_id])


def _utf8_bytes(where: str, field: str, text: str) -> int:
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise bad_input(
            where,
            f"a lone surrogate \\u{ord(text[error.start]):04x} in {field!r}, "
            f"character {error.start + 1}",
            "text that can be written as UTF-8",
            "remove it or write the whole surrogate pair",
        ) from None
