"""Texts as people give them from Python, made into lists of what was meant, or refused in one line.

A string is a sequence of characters to Python, a dict one of its keys: both would be encoded
without an error, as something that nobody asked for. Not for texts in files: `data/sources/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from scalingnote_jax.errors import bad_input

_IDS = {"id", "_id", "metadata"}  # of a BEIR record; nothing of them is encoded


def given_queries(texts: Any, where: str) -> list[str]:
    """The queries; one string is one query.

    Args:
        where: names the argument in errors.

    Raises:
        UserError: something else than strings, or a string that has no UTF-8.
    """
    return [_text(t, f"{where}: query {i}") for i, t in enumerate(_items(texts, where, str))]


def given_documents(documents: Any, where: str) -> list[tuple[str, str]]:
    """(title, text) of each document, which is given as its text, as such a pair, or as a mapping
    with "text" and perhaps "title"; one string or mapping is one document.

    Raises:
        UserError: none of these, or a string that has no UTF-8.
    """
    items = _items(documents, where, (str, Mapping))
    return [given_document(d, f"{where}: document {i}") for i, d in enumerate(items)]


def given_document(document: Any, where: str) -> tuple[str, str]:
    """As `given_documents`, for one."""
    if isinstance(document, str):
        return "", _text(document, where)
    if isinstance(document, Mapping):
        if "text" not in document or set(document) - _IDS - {"title", "text"}:
            given = f"a mapping with {', '.join(map(str, document)) or 'no keys'}"
            raise _refused(where, given, '"text", and "title" if there is one')
        title = document.get("title")
        document = ("" if title is None else title, document["text"])
    if not isinstance(document, tuple | list) or len(document) != 2:
        raise _refused(where, _said(document), "a text or (title, text)")
    return _text(document[0], f"{where}, title"), _text(document[1], where)


def _items(given: Any, where: str, one: Any) -> list[Any]:
    if isinstance(given, one):
        return [given]
    if isinstance(given, bytes | Mapping | AbstractSet) or not isinstance(given, Iterable):
        raise _refused(where, _said(given), "a list of texts")
    return list(given)


def _text(text: Any, where: str) -> str:
    if not isinstance(text, str):
        raise _refused(where, _said(text), "a text")
    try:
        text.encode()
    except UnicodeEncodeError as e:
        given = f"the character {text[e.start]!r}, half of a surrogate pair"
        raise _refused(where, given, "text that can be written as UTF-8") from e
    return str(text)


def _said(value: Any) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _refused(where: str, given: str, expected: str) -> Exception:
    return bad_input(where, given, expected, "change it")
