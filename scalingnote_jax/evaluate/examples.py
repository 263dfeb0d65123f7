"""Queries that a person reads: a spread of them, and those where the student falls furthest behind
its teacher, each with what the systems found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.data.sources.base import Qrels, Query
from scalingnote_jax.evaluate.rows import Row
from scalingnote_jax.retrieval.texts import CollectionTexts

EXAMPLES = 8
WORST = 8
SHOWN = 5  # documents of a system


Relevant = Mapping[str, Sequence[str]]
"""Query id → ids of its relevant documents, sorted."""


class Texts:
    """The text of a document by its id; read from disk when asked for."""

    def __init__(self, collection: Collection):
        self._texts = CollectionTexts(collection)

    def __getitem__(self, doc_id: str) -> str:
        title, text = self._texts[doc_id]
        return f"{title}: {text}" if title else text


def relevant_ids(qrels: Qrels, relevant_from: int = 1) -> dict[str, list[str]]:
    """Of each query the documents of that grade or a higher one."""
    return {
        query: sorted(doc for doc, grade in grades.items() if grade >= relevant_from)
        for query, grades in qrels.items()
    }


def spread_examples(
    texts: Texts, relevant: Relevant, queries: Sequence[Query], rows: Sequence[Row]
) -> list[dict[str, Any]]:
    """A spread of queries, not the best ones: every n-th in order of id."""
    step = max(1, len(queries) // EXAMPLES)
    chosen = sorted(queries, key=lambda q: q.id)[::step][:EXAMPLES]
    return [
        {
            "query": q.text,
            "relevant": relevant[q.id],
            "results": _results(texts, rows, q.id),
        }
        for q in chosen
    ]


def worst_queries(
    texts: Texts,
    relevant: Relevant,
    queries: Sequence[Query],
    rows: Sequence[Row],
    both: Mapping[str, Mapping[str, Mapping[str, float]]],
    metric: str,
) -> list[dict[str, Any]]:
    """The queries with the largest teacher − student, largest first; none where that is not > 0.

    Args:
        both: query id → metric → value of the student and of the teacher, by their names, the
            student first.
    """
    student, teacher = both.values()
    text_of = {q.id: q.text for q in queries}
    gaps = {qid: values[metric] - student[qid][metric] for qid, values in teacher.items()}
    behind = sorted((qid for qid in gaps if gaps[qid] > 0), key=lambda qid: (-gaps[qid], qid))
    return [
        {
            "query": text_of[qid],
            **{system: values[qid][metric] for system, values in both.items()},
            "metric": metric,
            "relevant": [texts[d] for d in relevant[qid][:SHOWN]],
            "results": _results(texts, rows, qid),
        }
        for qid in behind[:WORST]
    ]


def _results(
    texts: Texts, rows: Sequence[Row], query_id: str
) -> dict[str, list[tuple[str, str, float]]]:
    """Of each system its last row: the approximate search where there is one."""
    shown = {row.system: row for row in rows}
    return {
        name: [(d, texts[d], s) for d, s in row.run.get(query_id, [])[:SHOWN]]
        for name, row in shown.items()
    }
