"""A folder in BEIR's layout: `corpus.jsonl`, `queries.jsonl`, `qrels/{train,dev,test}.tsv`.

The two JSONL files may be gzipped. Splits are taken by their names, further ones by those in
`data.more_splits`, never by globbing: folders often hold judgements that are not ours to train or
test on. Records are checked here, where the line is known; that the judgements' ids exist is
checked in `survey.py`, which knows all ids.
"""

from __future__ import annotations

from collections.abc import Iterator

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.sources.base import SPLITS, Document, Qrels, Query
from scalingnote_jax.data.sources.columns import read_judgements
from scalingnote_jax.data.sources.lines import checked_folder, needed_file, read_objects
from scalingnote_jax.data.sources.records import (
    Ids,
    Judgement,
    checked_text,
    field_of,
    place_of,
    qrels_of,
    query_text,
)
from scalingnote_jax.errors import bad_input
from scalingnote_jax.hashing import content_hash, file_hash


class BeirSource:
    """Reads a BEIR folder. See `Source` for the methods."""

    def __init__(self, cfg: DataConfig):
        """
        Raises:
            UserError: no folder, no corpus, no queries or no qrels of a known split.
        """
        self._max_bytes = cfg.max_text_bytes
        folder = checked_folder(cfg.path, "corpus.jsonl, queries.jsonl and qrels/")
        self._corpus = needed_file(folder / "corpus.jsonl")
        self._queries = needed_file(folder / "queries.jsonl")
        paths = {split: folder / "qrels" / f"{split}.tsv" for split in SPLITS}
        self._qrels = {split: path for split, path in paths.items() if path.is_file()}
        more = {name: needed_file(folder / "qrels" / f"{name}.tsv") for name in cfg.more_splits}
        self._qrels |= more
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
        ids = Ids("_id")
        for where, record in read_objects(self._corpus):
            doc_id = ids.check(where, field_of(where, record, "_id"))
            title = checked_text(where, "title", record.get("title"), self._max_bytes)
            yield Document(doc_id, title, self._text(where, record, "text"))

    def queries(self) -> Iterator[Query]:
        """All queries in the order of the file."""
        ids = Ids("_id")
        for where, record in read_objects(self._queries):
            query_id = ids.check(where, field_of(where, record, "_id"))
            yield Query(query_id, query_text(where, query_id, self._text(where, record, "text")))

    def qrels(self, split: str) -> Qrels:
        """The judgements of `qrels/<split>.tsv`."""
        return qrels_of(self._judgements(split))

    def judged_at(self, split: str, query_id: str, doc_id: str) -> str:
        """`file:line` of a judgement."""
        return place_of(self._judgements(split), query_id, doc_id)

    def _judgements(self, split: str) -> Iterator[Judgement]:
        return read_judgements(self._qrels[split]) if split in self._qrels else iter(())

    def _text(self, where: str, record: dict[str, object], field: str) -> str:
        return checked_text(where, field, field_of(where, record, field), self._max_bytes)
