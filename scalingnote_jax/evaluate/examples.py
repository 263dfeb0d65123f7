"""Queries that a person reads: a spread of them, and those where the student falls furthest behind
its teacher, each with what the systems found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.data.sources.base import Qrels, Query
from scalingnote_jax.evaluate.rows import Row

EXAMPLES = 8
WORST = 8
SHOWN = 5  # documents of a system


class Texts:
    """The text of a document by its id; read from disk when asked for."""

    def __init__(self, collection: Collection):
        self._documents = collection.documents
        self._place = {doc_id: i for i, doc_id in enumerate(collection.doc_ids)}

    def __getitem__(self, doc_id: str) -> str:
        document = self._documents[self._place[doc_id]]
        return f"{document.title}: {document.text}" if document.title else document.text


def spread_examples(
    texts: Texts, qrels: Qrels, queries: Sequence[Query], rows: Sequence[Row]
) -> list[dict[str, Any]]:
    """A spread of queries, not the best ones: every n-th in order of id."""
    step = max(1, len(queries) // EXAMPLES)
    chosen = sorted(queries, key=lambda q: q.id)[::step][:EXAMPLES]
    return [
        {
            "query": q.text,
            "relevant": _relevant(qrels, q.id),
            "results": _results(texts, rows, q.id),
        }
        for q in chosen
    ]


def worst_queries(
    texts: Texts,
    qrels: Qrels,
    queries: Sequence[Query],
    rows: Sequence[Row],
    student: Mapping[str, Mapping[str, float]],
    teacher: Mapping[str, Mapping[str, float]],
    metric: str,
) -> list[dict[str, Any]]:
    """The queries with the largest teacher − student, largest first; none where that is not > 0.

    Args:
        student, teacher: query id → metric → value.
    """
    text_of = {q.id: q.text for q in queries}
    gaps = {qid: values[metric] - student[qid][metric] for qid, values in teacher.items()}
    behind = sorted((qid for qid in gaps if gaps[qid] > 0), key=lambda qid: (-gaps[qid], qid))
    return [
        {
            "query": text_of[qid],
            "student": student[qid][metric],
            "teacher": teacher[qid][metric],
            "metric": metric,
            "relevant": [texts[d] for d in _relevant(qrels, qid)[:SHOWN]],
            "results": _results(texts, rows, qid),
        }
        for qid in behind[:WORST]
    ]


def _relevant(qrels: Qrels, query_id: str) -> list[str]:
    return sorted(d for d, grade in qrels[query_id].items() if grade > 0)


def _results(
    texts: Texts, rows: Sequence[Row], query_id: str
) -> dict[str, list[tuple[str, str, float]]]:
    """Of each system its last row: the approximate search where there is one."""
    shown = {row.system: row for row in rows}
    return {
        name: [(d, texts[d], s) for d, s in row.run.get(query_id, [])[:SHOWN]]
        for name, row in shown.items()
    }
