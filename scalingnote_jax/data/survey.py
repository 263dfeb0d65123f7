"""One pass over a source before anything is written: ids, duplicates, and whether it all fits.

Not for single records, which the source itself checks, and not for storage: see `dataset.py`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.collection import FORMAT
from scalingnote_jax.data.overlaps import overlaps
from scalingnote_jax.data.same_texts import Groups, TextHashes
from scalingnote_jax.data.sources import SPLITS, Document, Qrels, Query, Source
from scalingnote_jax.data.sources.mixture import bare
from scalingnote_jax.errors import bad_input
from scalingnote_jax.progress import say

Record = TypeVar("Record", Document, Query)


@dataclass(frozen=True)
class Survey:
    """What is known of a source once it was read through. Holds ids and numbers, no texts.

    Attributes:
        groups: which texts are the same; of a mixture, without the collections' prompts.
        dropped: ids of documents that are left out, as `survey` says.
        qrels: by split, only the splits that have judgements.
        fingerprint: SHA-256 (hex) over the dataset's format and all of the content, in order.
    """

    doc_ids: list[str]
    query_ids: list[str]
    groups: Groups
    qrels: dict[str, Qrels]
    fingerprint: str
    dropped: frozenset[str]


def survey(source: Source, cfg: DataConfig) -> Survey:
    """Reads a source through once.

    A document with neither title nor text is dropped, with its judgements, unless one of them finds
    it relevant: then it is kept, because without it the recall of that query would be out of fewer
    documents than elsewhere. In the training split it is refused: a query tower must not learn from
    an empty text. What was dropped or kept is said, and what the splits have in common.

    Raises:
        UserError: a record is wrong, there are no documents or no queries, or a judgement names
            an unknown document or query, or leaves a query without a relevant document.
    """
    digest = hashlib.sha256(f"format {FORMAT}".encode())
    qrels = {
        split: found for split in (*SPLITS, *cfg.more_splits) if (found := source.qrels(split))
    }
    empty = _Empty(qrels)
    kept = empty.filtered(source.documents())
    hashes = TextHashes()
    doc_ids = _read(kept, digest, cfg, hashes.add_document)
    query_ids = _read(source.queries(), digest, cfg, hashes.add_query)
    if cfg.source == "none":
        return Survey([], [], hashes.groups(), {}, digest.hexdigest(), frozenset())
    for name, ids in (("corpus", doc_ids), ("query set", query_ids)):
        if not ids:
            given = f"the {name} is empty"
            raise bad_input(_place(cfg), given, "at least one record", "check the export")
    qrels = empty.settle(source, qrels)
    known_docs, known_queries = set(doc_ids), set(query_ids)
    for split, judged in qrels.items():
        _check_judgements(source, split, judged, known_docs, known_queries)
        digest.update(json.dumps([split, judged], sort_keys=True).encode())
    if not qrels:
        given, fix = "no judgements in any split", "add some, at least to train"
        raise bad_input(_place(cfg), given, "judged pairs to train or test on", fix)
    dropped = frozenset(empty.dropped)
    groups = hashes.groups()
    for line in overlaps(groups, doc_ids, query_ids, qrels):
        say(line)
    return Survey(doc_ids, query_ids, groups, qrels, digest.hexdigest(), dropped)


class _Empty:
    """The documents with neither title nor text, and what becomes of them."""

    def __init__(self, qrels: dict[str, Qrels]):
        all_grades = (grades for judged in qrels.values() for grades in judged.values())
        self._relevant = {doc for grades in all_grades for doc, g in grades.items() if g > 0}
        self.dropped: set[str] = set()
        self._kept: set[str] = set()

    def filtered(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents that stay."""
        for document in documents:
            if not document.title.strip() and not document.text.strip():
                if document.id not in self._relevant:
                    self.dropped.add(document.id)
                    continue
                self._kept.add(document.id)
            yield document

    def settle(self, source: Source, qrels: dict[str, Qrels]) -> dict[str, Qrels]:
        """The judgements of what is left, once all documents were read."""
        for query_id, grades in qrels.get("train", {}).items():
            for doc_id in grades:
                if doc_id in self._kept and grades[doc_id] > 0:
                    given = f"document {doc_id!r} is relevant, with an empty title and text"
                    fix = "fill one of them, or remove the judgement"
                    where = source.judged_at("train", query_id, doc_id)
                    raise bad_input(where, given, "a text to learn from", fix)
        if self._kept or self.dropped:
            say(
                f"documents without title and text: {len(self.dropped)} dropped, "
                f"{len(self._kept)} kept because they are judged relevant"
            )
        return {split: self._without_dropped(judged) for split, judged in qrels.items()}

    def _without_dropped(self, judged: Qrels) -> Qrels:
        left = {
            q: {d: g for d, g in docs.items() if d not in self.dropped}
            for q, docs in judged.items()
        }
        return {query_id: docs for query_id, docs in left.items() if docs}


def _read(
    records: Iterator[Record],
    digest: hashlib._Hash,
    cfg: DataConfig,
    add: Callable[[Record], None],
) -> list[str]:
    """Their ids; `add` gets each record without its collection's prompt."""
    ids: list[str] = []
    whole, stripped = itertools.tee(records)
    for record, plain in zip(whole, bare(cfg, stripped), strict=True):
        ids.append(record.id)
        add(plain)
        digest.update(json.dumps(vars(record)).encode())
    return ids


def _check_judgements(
    source: Source, split: str, judged: Qrels, known_docs: set[str], known_queries: set[str]
) -> None:
    for query_id, grades in judged.items():
        if query_id not in known_queries:
            where = source.judged_at(split, query_id, next(iter(grades)))
            given, fix = f"unknown query {query_id!r}", "add the query, or remove its judgements"
            raise bad_input(where, given, "the id of a query", fix)
        for doc_id in grades:
            if doc_id not in known_docs:
                where = source.judged_at(split, query_id, doc_id)
                given, fix = f"unknown document {doc_id!r}", "add the document or remove the line"
                raise bad_input(where, given, "an id of the corpus", fix)
        if max(grades.values()) <= 0:
            where = source.judged_at(split, query_id, next(iter(grades)))
            given = (
                f"query {query_id!r} has no relevant document (grades {sorted(grades.values())})"
            )
            fix = "judge one as relevant, or remove the query's lines from this split"
            raise bad_input(where, given, "a grade above 0 for each query of a split", fix)


def _place(cfg: DataConfig) -> str:
    return cfg.path or cfg.source
