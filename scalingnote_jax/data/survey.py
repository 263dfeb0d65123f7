"""One pass over a source before anything is written: ids, duplicates, and whether it all fits.

Not for single records, which the source itself checks, and not for storage: see `dataset.py`.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.sources import SPLITS, Qrels, Source
from scalingnote_jax.data.sources.base import fold
from scalingnote_jax.errors import bad_input


@dataclass(frozen=True)
class Survey:
    """What is known of a source once it was read through. Holds ids and numbers, no texts.

    Attributes:
        doc_groups: int32 [documents]; documents of one group have the same text but for case and
            white space. A document without text counts by its title.
        query_groups: int32 [queries], likewise.
        qrels: by split, only the splits that have judgements.
        fingerprint: SHA-256 (hex) over all of the content, in order.
    """

    doc_ids: list[str]
    query_ids: list[str]
    doc_groups: np.ndarray
    query_groups: np.ndarray
    qrels: dict[str, Qrels]
    fingerprint: str


def survey(source: Source, cfg: DataConfig) -> Survey:
    """Reads a source through once.

    Raises:
        UserError: a record is wrong, there are no documents or no queries, or a judgement names
            an unknown document or query, or leaves a query without a relevant document.
    """
    digest = hashlib.sha256()
    documents = ((d.id, d.text if d.text.strip() else d.title, d) for d in source.documents())
    queries = ((q.id, q.text, q) for q in source.queries())
    doc_ids, doc_groups = _read(documents, digest)
    query_ids, query_groups = _read(queries, digest)
    for name, ids in (("corpus", doc_ids), ("query set", query_ids)):
        if not ids:
            given = f"the {name} is empty"
            raise bad_input(_place(cfg), given, "at least one record", "check the export")
    qrels = {split: found for split in SPLITS if (found := source.qrels(split))}
    known_docs, known_queries = set(doc_ids), set(query_ids)
    for split, judged in qrels.items():
        _check_judgements(source, split, judged, known_docs, known_queries)
        digest.update(json.dumps([split, judged], sort_keys=True).encode())
    if not qrels:
        given, fix = "no judgements in any split", "fill qrels/train.tsv"
        raise bad_input(_place(cfg), given, "judged pairs to train or test on", fix)
    return Survey(doc_ids, query_ids, doc_groups, query_groups, qrels, digest.hexdigest())


def _read(
    records: Iterable[tuple[str, str, object]], digest: hashlib._Hash
) -> tuple[list[str], np.ndarray]:
    ids: list[str] = []
    groups = array("i")
    seen: dict[bytes, int] = {}
    for record_id, text, record in records:
        ids.append(record_id)
        key = hashlib.blake2b(fold(text).encode(), digest_size=16).digest()
        groups.append(seen.setdefault(key, len(seen)))
        digest.update(json.dumps(vars(record)).encode())
    return ids, np.array(groups, np.int32)


def _check_judgements(
    source: Source, split: str, judged: Qrels, known_docs: set[str], known_queries: set[str]
) -> None:
    for query_id, grades in judged.items():
        if query_id not in known_queries:
            where = source.judged_at(split, query_id, next(iter(grades)))
            given, fix = f"unknown query {query_id!r}", "add the query, or remove its judgements"
            raise bad_input(where, given, "an _id of queries.jsonl", fix)
        for doc_id in grades:
            if doc_id not in known_docs:
                where = source.judged_at(split, query_id, doc_id)
                given, fix = f"unknown document {doc_id!r}", "add the document or remove the line"
                raise bad_input(where, given, "an _id of the corpus", fix)
        if max(grades.values()) <= 0:
            where = source.judged_at(split, query_id, next(iter(grades)))
            given = (
                f"query {query_id!r} has no relevant document (grades {sorted(grades.values())})"
            )
            fix = "judge one as relevant, or remove the query's lines from this split"
            raise bad_input(where, given, "a grade above 0 for each query of a split", fix)


def _place(cfg: DataConfig) -> str:
    return cfg.path if cfg.source == "beir" else cfg.source
