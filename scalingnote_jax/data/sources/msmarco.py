"""Files as MS MARCO has them, plain or gzipped, without headers and with tabs between the columns:

    collection.tsv                 pid text, or pid title text
    queries.{train,dev,test}.tsv   qid text
    qrels.{train,dev,test}.tsv     qid 0 pid grade, as TREC has them, or qid pid grade

A split is there if its qrels are, and then its queries must be too. MS MARCO's own folder has no
`qrels.dev.tsv`: then `dev` is its `dev.small`. Texts are streamed, only ids are held. That the
judgements' ids exist is checked in `survey.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.sources.base import Document, Qrels, Query
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
    grade_of,
    place_of,
    qrels_of,
    query_text,
)
from scalingnote_jax.errors import bad_input
from scalingnote_jax.hashing import content_hash, file_hash

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
        for where, cells in _table(self._corpus, ("pid text", "pid title text")):
            doc_id = ids.check(where, cells[0])
            title = self._text(where, "title", cells[1]) if len(cells) == 3 else ""
            yield Document(doc_id, title, self._text(where, "text", cells[-1]))

    def queries(self) -> Iterator[Query]:
        """The queries of all splits, one file after the other."""
        file_of: dict[str, str] = {}
        for path in self._queries.values():
            ids = Ids("qid")
            for where, (found, text) in _table(path, ("qid text",)):
                query_id = ids.check(where, found)
                first = file_of.setdefault(query_id, path.name)
                if first != path.name:
                    given, fix = f"the qid {query_id!r} is also in {first}", "keep it in one file"
                    raise bad_input(where, given, "ids that occur once", fix)
                text = self._text(where, "text", text)
                yield Query(query_id, query_text(where, query_id, text))

    def qrels(self, split: str) -> Qrels:
        """The judgements of the split's file."""
        return qrels_of(self._judgements(split))

    def judged_at(self, split: str, query_id: str, doc_id: str) -> str:
        """`file:line` of a judgement."""
        return place_of(self._judgements(split), query_id, doc_id)

    def _judgements(self, split: str) -> Iterator[Judgement]:
        if split not in self._qrels:
            return
        for where, cells in _table(self._qrels[split], ("qid pid grade", "qid 0 pid grade"), None):
            yield where, cells[0], cells[-2], grade_of(where, cells[-1])

    def _text(self, where: str, name: str, text: str) -> str:
        return checked_text(where, name, text, self._max_bytes)


def _table(
    path: Path, forms: tuple[str, ...], separator: str | None = "\t"
) -> Iterator[tuple[str, list[str]]]:
    """The lines of a file as (`file:line`, cells), all in the form of the first line.

    Args:
        forms: the names of the columns, in each form that the file may have.
        separator: between the columns; None: any white space.
    """
    by_width = {len(form.split()): form for form in forms}
    width = 0
    for where, line in read_lines(path):
        cells = line.split(separator)
        width = width or len(cells)
        if len(cells) != width or width not in by_width:
            expected = by_width.get(width) or " or ".join(forms)
            raise bad_input(
                where,
                f"{len(cells)} columns: {line[:80]!r}",
                f"the columns {expected}, with tabs between",
                "write one record a line, all lines alike",
            )
        yield where, cells
