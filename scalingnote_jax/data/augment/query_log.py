"""A query log: texts that people have asked, with how often, from files. What a student learns from
them, the teacher says; nobody has judged them. Not part of a collection or of its identity.

    FILE.txt     one text on each line
    FILE.jsonl   {"text": …, "count": …} on each line; "query" serves as "text", no count is 1
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scalingnote_jax.data.order import Draw, keyed
from scalingnote_jax.errors import bad_input
from scalingnote_jax.hashing import file_hash

FIELD = "--distill.query_files"
_FORMS = "a text on each line of a .txt, or objects with text (and count) in a .jsonl"


def content(settings: Any) -> list[str]:
    """The content hashes of the config's files, in order."""
    return [file_hash(_file(name)) for name in settings.distill.query_files]


def read_log(names: Sequence[str]) -> dict[str, int]:
    """Text → how often it was asked, over all files, in the order of its first line.

    Raises:
        UserError: a file is not there, a line is none, or there is no text at all.
    """
    counts: dict[str, int] = {}
    for name in names:
        path = _file(name)
        lines = _objects(path) if path.suffix == ".jsonl" else _lines(path)
        for text, count in lines:
            counts[text] = counts.get(text, 0) + count
    if names and not counts:
        raise bad_input(FIELD, f"no text in {', '.join(names)}", _FORMS, "name another file")
    return counts


def by_frequency(counts: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """int64 [size], places of texts, each as often as its share of the counts wants, give or take
    one: an epoch is a sample of the log. Which of the rare ones come differs from epoch to epoch.

    Args:
        counts: [n] above 0.
    """
    start = float(keyed(seed, epoch, Draw.MIXTURE)) / 2**64
    order = np.argsort(keyed(seed, epoch, Draw.MIXTURE, np.arange(len(counts))), kind="stable")
    ends = np.cumsum(counts[order], dtype=np.float64)
    places = np.searchsorted(ends, (np.arange(size) + start) / size * ends[-1], side="right")
    return order[np.minimum(places, len(counts) - 1)]


def _file(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_file():
        raise bad_input(FIELD, f"{name!r} is not there", _FORMS, "check the path")
    if path.suffix not in (".txt", ".jsonl"):
        raise bad_input(FIELD, repr(name), _FORMS, "rename it, or convert it")
    return path


def _lines(path: Path) -> Iterator[tuple[str, int]]:
    for text in _read(path):
        if text.strip():
            yield text.strip(), 1


def _objects(path: Path) -> Iterator[tuple[str, int]]:
    for number, line in enumerate(_read(path), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            text, count = found.get("text", found.get("query")), found.get("count", 1)
        except (ValueError, AttributeError, RecursionError):
            text, count = None, 1
        whole = isinstance(count, int) and not isinstance(count, bool) and count > 0
        if not isinstance(text, str) or not text.strip() or not whole:
            expected = 'an object with "text" and, if there is one, a whole "count" above 0'
            raise bad_input(f"{path}:{number}", line.strip()[:60], expected, "correct the line")
        yield text.strip(), count


def _read(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        try:
            yield from (line.rstrip("\n") for line in file)
        except UnicodeDecodeError as e:
            raise bad_input(str(path), f"not UTF-8 ({e.reason})", "UTF-8", "convert it") from e
