"""Rows of a query with its positives and negatives, as most training sets come: documents, queries
and judgements are made of them.

A positive is judged 1, a negative 0; negatives are documents of the corpus like all others. Texts
that are the same but for case and white space are one document or one query, and its id is a hash
of the text: rows have no ids. Where there are only training rows, they are cut by `shares.py`:
queries that have a positive in common stay together, and so do a query and a positive of one text,
so that no text of a test pair is in a training pair. Where the rows come from: `pair_files.py`,
`pair_tfds.py`.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.sources.base import Document, Qrels, Query, fold
from scalingnote_jax.data.sources.records import checked_text, field_of
from scalingnote_jax.data.sources.shares import cut
from scalingnote_jax.errors import bad_input
from scalingnote_jax.hashing import content_hash
from scalingnote_jax.progress import say

Row = tuple[str, dict[str, Any]]
"""Place, and the fields by their names."""


@dataclass(frozen=True)
class Rows:
    """Where rows come from.

    Attributes:
        splits: split → its rows, read anew with each call.
        fingerprint: SHA-256 (hex) of what is read.
    """

    splits: Mapping[str, Callable[[], Iterator[Row]]]
    fingerprint: Callable[[], str]


class PairSource:
    """Makes a collection of rows. See `Source` for the methods."""

    def __init__(self, cfg: DataConfig, rows: Rows):
        """
        Raises:
            UserError: the shares of the splits leave nothing to train on.
        """
        self._cfg, self._rows = cfg, rows
        self._one_split = set(rows.splits) == {"train"}
        self._negative_names: dict[str, None] = {}  # of the fields of the rows read so far

    def fingerprint(self) -> str:
        """Over what is read and the options that shape it."""
        cfg = self._cfg
        fields = [cfg.query_field, cfg.positive_field, cfg.negative_fields]
        shares = [cfg.seed, cfg.test_percent, cfg.dev_percent] if self._one_split else None
        parts = [cfg.source, self._rows.fingerprint(), fields, shares, cfg.max_text_bytes]
        return content_hash(parts)

    def documents(self) -> Iterator[Document]:
        """Each different positive or negative, in the order of the rows."""
        seen: set[str] = set()
        for where, row in self._all_rows():
            for text in [*self._positives(where, row), *self._negatives(where, row)]:
                if (doc_id := _id_of("d", text)) not in seen:
                    seen.add(doc_id)
                    yield Document(doc_id, "", text)

    def queries(self) -> Iterator[Query]:
        """Each different query, in the order of the rows."""
        seen: set[str] = set()
        for where, row in self._all_rows():
            text = self._query(where, row)
            if (query_id := _id_of("q", text)) not in seen:
                seen.add(query_id)
                yield Query(query_id, text)

    def qrels(self, split: str) -> Qrels:
        """Positives have grade 1, negatives 0; what is both in different rows is relevant."""
        return self._qrels.get(split, {})

    def judged_at(self, split: str, query_id: str, doc_id: str) -> str:
        """The ids that were made of the texts: every row is a judgement that fits the rest."""
        return f"{self._cfg.path} {split} {query_id} {doc_id}"

    @functools.cached_property
    def _qrels(self) -> dict[str, Qrels]:
        found = {split: self._judged(read()) for split, read in self._rows.splits.items()}
        if self._negative_names:
            say(f"{self._cfg.path}: negatives are taken from {', '.join(self._negative_names)}")
        return cut(found["train"], self._cfg, _text_of) if self._one_split else found

    def _judged(self, rows: Iterator[Row]) -> Qrels:
        found: Qrels = {}
        for where, row in rows:
            self._negative_names |= dict.fromkeys(negative_names(self._cfg, row))
            grades = found.setdefault(_id_of("q", self._query(where, row)), {})
            good = {_id_of("d", text) for text in self._positives(where, row)}
            grades.update(dict.fromkeys(sorted(good), 1))
            for text in self._negatives(where, row):
                doc_id = _id_of("d", text)
                if doc_id in good:
                    given = f"{text[:60]!r} as positive and as negative"
                    raise bad_input(where, given, "one of the two", "remove one of them")
                grades.setdefault(doc_id, 0)
        return found

    def _all_rows(self) -> Iterator[Row]:
        for read in self._rows.splits.values():
            yield from read()

    def _query(self, where: str, row: dict[str, Any]) -> str:
        field = self._cfg.query_field
        return self._text(where, field, field_of(where, row, field))

    def _positives(self, where: str, row: dict[str, Any]) -> list[str]:
        field = self._cfg.positive_field
        found = self._texts(where, field, field_of(where, row, field))
        if not found:
            given, fix = f"no text in {field!r}", "add one, or remove the row"
            raise bad_input(where, given, "at least one positive", fix)
        return found

    def _negatives(self, where: str, row: dict[str, Any]) -> list[str]:
        found: list[str] = []
        for name in negative_names(self._cfg, row):
            found += self._texts(where, name, field_of(where, row, name))
        return found

    def _texts(self, where: str, field: str, value: Any) -> list[str]:
        values = value if isinstance(value, list) else [value]
        # Tables have null where a row has fewer than others
        return [self._text(where, field, text) for text in values if text is not None]

    def _text(self, where: str, field: str, value: Any) -> str:
        text = checked_text(where, field, value, self._cfg.max_text_bytes)
        if not text.strip():
            raise bad_input(where, f"{field!r} is empty", "a text", "fill it, or remove the row")
        return text


def negative_names(cfg: DataConfig, fields: Iterable[str]) -> list[str]:
    """The names that `cfg.negative_fields` stands for, each once; a name without `*` and `#` has to
    be a field.
    """
    found: dict[str, None] = {}
    for pattern in cfg.negative_fields:
        if "*" in pattern or "#" in pattern:
            form = re.escape(pattern).replace(r"\*", ".*").replace(r"\#", "[0-9]*")
            found |= dict.fromkeys(name for name in fields if re.fullmatch(form, name, re.DOTALL))
        else:
            found[pattern] = None
    return list(found)


def _text_of(record_id: str) -> str:
    """What the ids of a query and a document of one text have in common."""
    return record_id.partition("-")[2]


def _id_of(kind: str, text: str) -> str:
    """80 bits: among 100 million texts a collision has a chance of 1 in 200 million."""
    return f"{kind}-{hashlib.blake2b(fold(text).encode(), digest_size=10).hexdigest()}"
