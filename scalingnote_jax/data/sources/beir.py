"""A folder in BEIR's layout: `corpus.jsonl`, `queries.jsonl`, `qrels/{train,dev,test}.tsv`.

The two JSONL files may be gzipped. Splits are taken by their names, never by globbing: folders
often hold further judgements that are not ours to train or test on. Records are checked here, where
the line is known; that the judgements' ids exist is checked in `survey.py`, which knows all ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.sources.base import SPLITS, Document, Qrels, Query
from scalingnote_jax.data.sources.jsonl import find_jsonl, read_lines, read_objects
from scalingnote_jax.errors import bad_input
from scalingnote_jax.fingerprint import content_hash, file_hash

_HEADER = ["query-id", "corpus-id", "score"]
_INTEGER = re.compile(r"[+-]?[0-9]{1,9}")


class BeirSource:
    """Reads a BEIR folder. See `Source` for the methods."""

    def __init__(self, cfg: DataConfig):
        """
        Raises:
            UserError: no folder, no corpus, no queries or no qrels of a known split.
        """
        self._max_bytes = cfg.max_text_bytes
        folder = Path(cfg.path)
        if not cfg.path or not folder.is_dir():
            raise bad_input(
                "--data.path",
                f"{cfg.path!r} is not a folder",
                "a folder with corpus.jsonl, queries.jsonl and qrels/",
                "name one, or use --data.source=pydocs, which needs no files",
            )
        self._corpus = find_jsonl(folder, "corpus")
        self._queries = find_jsonl(folder, "queries")
        paths = {split: folder / "qrels" / f"{split}.tsv" for split in SPLITS}
        self._qrels = {split: path for split, path in paths.items() if path.is_file()}
        if not self._qrels:
            raise bad_input(
                str(folder / "qrels"),
                "no train.tsv, dev.tsv or test.tsv",
                "at least one of them",
                "put the judgements there under one of these names",
            )

    def fingerprint(self) -> str:
        """Over the bytes of all files that are read."""
        files = [self._corpus, self._queries, *self._qrels.values()]
        return content_hash(["beir", [[p.name, file_hash(p)] for p in files], self._max_bytes])

    def documents(self) -> Iterator[Document]:
        """The corpus in the order of the file."""
        lines: dict[str, int] = {}
        for where, record in read_objects(self._corpus):
            doc_id = self._id(where, record, lines)
            title = "" if record.get("title") is None else self._text(where, record, "title")
            text = self._text(where, record, "text")
            if not title.strip() and not text.strip():
                fix = "fill one of them, or remove the document and its judgements"
                given = f"document {doc_id!r} has an empty title and an empty text"
                raise bad_input(where, given, "a title or a text", fix)
            yield Document(doc_id, title, text)

    def queries(self) -> Iterator[Query]:
        """All queries in the order of the file."""
        lines: dict[str, int] = {}
        for where, record in read_objects(self._queries):
            query_id = self._id(where, record, lines)
            text = self._text(where, record, "text")
            if not text.strip():
                fix = "remove the query and its judgements"
                raise bad_input(where, f"query {query_id!r} is empty", "a text", fix)
            yield Query(query_id, text)

    def qrels(self, split: str) -> Qrels:
        """The judgements of `qrels/<split>.tsv`."""
        found: Qrels = {}
        for where, query_id, doc_id, grade in self._judgements(split):
            grades = found.setdefault(query_id, {})
            if grades.setdefault(doc_id, grade) != grade:
                given = f"{query_id} {doc_id} has grade {grade}, but {grades[doc_id]} further up"
                raise bad_input(where, given, "one grade for each pair", "remove one of the lines")
        return found

    def judged_at(self, split: str, query_id: str, doc_id: str) -> str:
        """`file:line` of a judgement."""
        for where, *pair, _ in self._judgements(split):
            if pair == [query_id, doc_id]:
                return where
        return str(self._qrels[split])

    def _judgements(self, split: str) -> Iterator[tuple[str, str, str, int]]:
        if split not in self._qrels:
            return
        fix = "write three columns with tabs between them, under the header"
        for number, (where, line) in enumerate(read_lines(self._qrels[split])):
            cells = line.split("\t")
            if number == 0:
                if cells != _HEADER:
                    expected = f"the header {' '.join(_HEADER)} (tabs between)"
                    raise bad_input(where, f"{line[:80]!r}", expected, fix)
                continue
            if len(cells) != 3:
                given = f"{len(cells)} columns: {line[:80]!r}"
                raise bad_input(where, given, "3 columns with tabs between", fix)
            if not _INTEGER.fullmatch(cells[2]):
                fix = "use whole numbers: above 0 is relevant, 0 is not"
                raise bad_input(where, f"the score {cells[2]!r}", "an integer", fix)
            yield where, cells[0], cells[1], int(cells[2])

    def _id(self, where: str, record: dict[str, Any], lines: dict[str, int]) -> str:
        found = _field(where, record, "_id")
        if not found or any(c.isspace() for c in found):
            fix = "give the record an id without spaces (TREC files part their columns by them)"
            raise bad_input(where, f"the _id {found!r}", "an id without white space", fix)
        _utf8_bytes(where, "_id", found)
        line = int(where.rpartition(":")[2])
        first = lines.setdefault(found, line)
        if first != line:
            given = f"the _id {found!r} again, first seen on line {first}"
            raise bad_input(where, given, "ids that occur once", "remove or rename one of the two")
        return found

    def _text(self, where: str, record: dict[str, Any], field: str) -> str:
        text = _field(where, record, field)
        size = _utf8_bytes(where, field, text)
        if size > self._max_bytes:
            raise bad_input(
                where,
                f"a {field} of {size:,} bytes",
                f"at most {self._max_bytes:,} (--data.max_text_bytes)",
                "split or shorten it, or raise the limit if such texts are meant",
            )
        return text


def _field(where: str, record: dict[str, Any], field: str) -> str:
    if field not in record:
        given = f"no field {field!r} (fields: {', '.join(map(repr, record)) or 'none'})"
        raise bad_input(where, given, f"{field!r} with a text", "add it, or export the file again")
    if not isinstance(record[field], str):
        given = f"the field {field!r} is of type {type(record[field]).__name__}"
        raise bad_input(where, given, "a text in quotes", "write the value as a JSON string")
    return record[field]


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
