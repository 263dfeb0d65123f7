"""What a collection's splits have in common, and which documents look alike: counted, to be said
aloud when a dataset is built, or by the evaluation. Nothing is refused: real collections have some
of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from scalingnote_jax.data.augment.title_names import title_names
from scalingnote_jax.data.collection import Collection
from scalingnote_jax.data.same_texts import Groups
from scalingnote_jax.data.sources.base import Qrels, fold


def overlaps(
    groups: Groups,
    doc_ids: Sequence[str],
    query_ids: Sequence[str],
    qrels: Mapping[str, Qrels],
) -> Iterator[str]:
    """A sentence for each kind of overlap that there is."""
    shared = _shared_text(groups)
    if shared:
        yield (
            f"documents: {shared:,} of {len(doc_ids):,} share their text with one of another "
            "title; a prompt without {title} cannot tell them apart"
        )
    numbers = _Numbers(groups, doc_ids, query_ids)
    if "train" not in qrels:
        return
    queries, pairs = numbers.of(qrels["train"])
    own = int((pairs[:, 0] == pairs[:, 1]).sum())
    if own:
        yield f"train: {own:,} of {len(pairs):,} relevant pairs are of a text with itself"
    either_way = numbers.keys(np.concatenate([pairs, pairs[:, ::-1]]))
    for split, judged in qrels.items():
        if split != "train":
            held_out, held_pairs = numbers.of(judged)
            same = int(np.isin(held_out, queries).sum())
            learned = int(np.isin(numbers.keys(held_pairs), either_way).sum())
            if same or learned:
                yield (
                    f"{split}: {same:,} of {len(held_out):,} queries have the text of a training "
                    f"query, and {learned:,} of {len(held_pairs):,} relevant pairs have the texts "
                    "of a training pair, either way round (but for case and white space): what is "
                    "measured on them was learned"
                )


def seen_entities(collection: Collection, split: str) -> dict[str, bool]:
    """Query id of a split → whether a training query is about the entity of one of its relevant
    documents.

    Documents are of one entity if their titles have the same name (`title_names.py`), or else the
    same title; a document without a title is one of its own.
    """
    trained = collection.qrels("train") if "train" in collection.splits else {}
    judged = collection.qrels(split)
    row_of = {doc_id: row for row, doc_id in enumerate(collection.doc_ids)}
    ids = sorted(set().union(*trained.values(), *judged.values()))
    documents = collection.documents.take([row_of[doc_id] for doc_id in ids])
    names = title_names(collection, documents)
    entity = {d.id: fold(names.name(d.title) or d.title) or d.id for d in documents}

    def entities(grades: Mapping[str, int]) -> set[str]:
        return {entity[doc_id] for doc_id, grade in grades.items() if grade > 0}

    known = set().union(*map(entities, trained.values()))
    return {qid: bool(known & entities(grades)) for qid, grades in judged.items()}


class _Numbers:
    """Judgements as numbers of texts."""

    def __init__(self, groups: Groups, doc_ids: Sequence[str], query_ids: Sequence[str]):
        self._docs = dict(zip(doc_ids, groups.doc_texts.tolist(), strict=True))
        self._queries = dict(zip(query_ids, groups.queries.tolist(), strict=True))
        self._count = 1 + max(groups.doc_texts.max(initial=0), groups.queries.max(initial=0))

    def of(self, judged: Qrels) -> tuple[np.ndarray, np.ndarray]:
        """int64 [queries] and [relevant pairs, 2], query and document."""
        pairs = [
            (self._queries[query_id], self._docs[doc_id])
            for query_id, grades in judged.items()
            for doc_id, grade in grades.items()
            if grade > 0
        ]
        queries = [self._queries[query_id] for query_id in judged]
        return np.array(queries, np.int64), np.array(pairs, np.int64).reshape(-1, 2)

    def keys(self, pairs: np.ndarray) -> np.ndarray:
        """int64 [pairs], one number for each."""
        return pairs[:, 0] * int(self._count) + pairs[:, 1]


def _shared_text(groups: Groups) -> int:
    """Documents whose text another one has, under another title."""
    titles = np.unique(np.stack([groups.doc_texts, groups.docs], axis=1), axis=0)[:, 0]
    several = np.bincount(titles, minlength=1) > 1
    return int(several[groups.doc_texts].sum())
