"""Files as MS MARCO has them, plain or gzipped, with tabs between the columns:

    collection.tsv                 pid text, or pid title text
    queries.{train,dev,test}.tsv   qid text
    qrels.{train,dev,test}.tsv     qid 0 pid grade, as TREC has them, or qid pid grade

A header is read where there is one, and then the columns are in any order. A split is there if
its qrels are, and then its queries must be too. MS MARCO's own folder has no `qrels.dev.tsv`: then
`dev` is its `dev.small`. Texts are streamed, only ids are held. That the judgements' ids exist is
checked in `survey.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.sources.base import Document, Qrels, Query
from scalingnote_jax.data.sources.columns import Columns, header, read_judgements
from scalingnote_jax.data.sources.lines import (
    checked_folder,
    needed_file,
    plain_or_gzipped,
    read_lines,
)
from scalingnote_jax.data.sources.records import (
    Ids,
    Judgement,
    checked_text,
    place_of,
    qrels_of,
    query_text,
)
from scalingnote_jax.errors import bad_input
from scalingnote_jax.hashing import content_hash, file_hash

_ID = frozenset({"pid", "doc-id", "docid", "qid", "query-id", "id"})
_TEXT = frozenset({"text", "passage", "body", "query"})
_RECORD: Columns = {"id": _ID, "text": _TEXT}
_TITLED: Columns = {"id": _ID, "title": frozenset({"title"}), "text": _TEXT}
_NAMES = {"train": ("train",), "dev": ("dev", "dev.small"), "test": ("test",)}


class MsmarcoSource:
    """Reads a folder of TSV files. See `Source` for the methods."""

    def __init__(self, cfg: DataConfig):
        """
        Raises:
            UserError: no folder, no collection, no qrels of a known split, or qrels without
                queries.
        """
        self._max_bytes = cfg.max_text_bytes
        folder = checked_folder(cfg.path, "collection.tsv, queries.*.tsv and qrels.*.tsv")
        self._corpus = needed_file(folder / "collection.tsv")
        self._queries: dict[str, Path] = {}
        self._qrels: dict[str, Path] = {}
        for split, names in _NAMES.items():
            for name in names:
                qrels = plain_or_gzipped(folder / f"qrels.{name}.tsv")
                if qrels and split not in self._qrels:
                    self._qrels[split] = qrels
                    self._queries[split] = needed_file(folder / f"queries.{name}.tsv")
        if not self._qrels:
            raise bad_input(
                str(folder),
                "no qrels.train.tsv, qrels.dev.tsv or qrels.test.tsv",
                "at least one of them",
                "put the judgements there under one of these names",
            )

    def fingerprint(self) -> str:
        """Over the bytes of all files that are read."""
        files = [self._corpus, *self._queries.values(), *self._qrels.values()]
        return content_hash(["msmarco", [[p.name, file_hash(p)] for p in files], self._max_bytes])

    def documents(self) -> Iterator[Document]:
        """The collection in the order of the file."""
        ids = Ids("pid")
        for where, row in _table(self._corpus, (_RECORD, _TITLED), "pid"):
            doc_id = ids.check(where, row["id"])
            title = self._text(where, "title", row.get("title", ""))
            yield Document(doc_id, title, self._text(where, "text", row["text"]))

    def queries(self) -> Iterator[Query]:
        """The queries of all splits, one file after the other."""
        file_of: dict[str, str] = {}
        for path in self._queries.values():
            ids = Ids("qid")
            for where, row in _table(path, (_RECORD,), "qid"):
                query_id = ids.check(where, row["id"])
                first = file_of.setdefault(query_id, path.name)
                if first != path.name:
                    given, fix = f"the qid {query_id!r} is also in {first}", "keep it in one file"
                    raise bad_input(where, given, "ids that occur once", fix)
                text = self._text(where, "text", row["text"])
                yield Query(query_id, query_text(where, query_id, text))

    def qrels(self, split: str) -> Qrels:
        """The judgements of the split's file."""
        return qrels_of(self._judgements(split))

    def judged_at(self, split: str, query_id: str, doc_id: str) -> str:
        """`file:line` of a judgement."""
        return place_of(self._judgements(split), query_id, doc_id)

    def _judgements(self, split: str) -> Iterator[Judgement]:
        return read_judgements(self._qrels[split]) if split in self._qrels else iter(())

    def _text(self, where: str, name: str, text: str) -> str:
        return checked_text(where, name, text, self._max_bytes)


def _table(
    path: Path, forms: tuple[Columns, ...], id_name: str
) -> Iterator[tuple[str, dict[str, str]]]:
    """The lines of a file as (`file:line`, cells by column), all in the form of the first line,
    which may be a header.

    Args:
        forms: what the columns are, in each form that the file may have without a header.
        id_name: what the file's format calls an id.
    """
    places: dict[str, int] = {}
    width = 0
    for where, line in read_lines(path):
        cells = line.split("\t")
        if not places:
            width = len(cells)
            # The one with more columns first: a title that the header names is read
            named = next(filter(None, (header(cells, form) for form in forms[::-1])), None)
            by_width = next((form for form in forms if len(form) == width), {})
            places = named or {column: place for place, column in enumerate(by_width)}
            if named:
                continue
        if len(cells) != width or not places:
            fitting = [form for form in forms if set(form) == set(places)] or forms
            known = " or ".join(" ".join([id_name, *list(form)[1:]]) for form in fitting)
            raise bad_input(
                where,
                f"{len(cells)} columns: {line[:80]!r}",
                f"the columns {known}, with tabs between",
                "write one record a line, all lines alike",
            )
        yield where, {column: cells[place] for column, place in places.items()}
