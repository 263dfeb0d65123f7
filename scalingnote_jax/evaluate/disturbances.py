"""The points of the robustness curves: which queries are asked of which corpus.

Texts only; `robustness.py` searches with them and says what it costs.
"""

from __future__ import annotations

import difflib
import hashlib
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scalingnote_jax.config import DataConfig, EvalConfig
from scalingnote_jax.data.augment.perturb import (
    QUERY_KINDS,
    near_copies,
    perturb,
    shuffled_documents,
)
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.data.sources import Document, Qrels, Query, Source, open_source
from scalingnote_jax.errors import bad_input
from scalingnote_jax.evaluate.metrics import cutoff_of

FOREIGN, SHUFFLED, COPIES = "foreign_documents", "shuffled_documents", "near_duplicates"
MERGED = "near_duplicates_merged"  # the same search, a copy counted as its original
UNSEEN = "unseen_queries"  # strength 0: queries of the training split, 1: of the one evaluated
KINDS = (*QUERY_KINDS, FOREIGN, SHUFFLED, COPIES, UNSEEN)
MOST_COPIES = 10  # of each relevant document, at strength 1


@dataclass(frozen=True)
class Case:
    """Queries that are asked of one corpus: a point of one curve, or of several.

    Attributes:
        points: the (kind, strength) that it is.
        k: documents searched for.
        added: documents beside the collection's.
        originals: id of an added copy → id of its document.
    """

    points: tuple[tuple[str, float], ...]
    queries: list[Query]
    qrels: Qrels
    k: int
    added: list[Document] = field(default_factory=list)
    originals: dict[str, str] = field(default_factory=dict)


def check_robustness(cfg: EvalConfig) -> None:
    """
    Raises:
        UserError: an unknown kind, a strength that is none, no second collection, no other split.
    """
    for kind in cfg.robustness:
        if kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.0)[0]
            known, fix = f"one of {', '.join(KINDS)}", f"did you mean {near!r}?"
            raise bad_input("--eval.robustness", f"unknown kind {kind!r}", known, fix)
    for strength in cfg.robustness_strengths:
        if not 0 <= strength <= 1:
            where, fix = "--eval.robustness_strengths", "0.1 is mild, 0.5 is rough"
            raise bad_input(where, str(strength), "numbers from 0 to 1", fix)
    if FOREIGN in cfg.robustness and not Path(cfg.robustness_documents or "?").is_dir():
        raise bad_input(
            "--eval.robustness_documents",
            f"{cfg.robustness_documents!r} is not a folder",
            f"a second collection in BEIR layout, for {FOREIGN}",
            f"name one, or use {SHUFFLED}, which needs none",
        )
    if UNSEEN in cfg.robustness and cfg.split == "train":
        fix = f"choose another, or leave {UNSEEN} out"
        raise bad_input("--eval.split", "train", f"dev or test, for {UNSEEN}", fix)


def second_collection(cfg: EvalConfig) -> Source | None:
    """Where foreign documents come from, if they are asked for."""
    if FOREIGN not in cfg.robustness:
        return None
    return open_source(DataConfig(source="beir", path=cfg.robustness_documents))


def make_cases(cfg: EvalConfig, seed: int, collection: Collection) -> list[Case]:
    """All points of all curves, the undisturbed ones once."""
    qrels = collection.qrels(cfg.split)
    queries = [q for q in collection.queries if q.id in qrels]
    k = (cutoff_of(cfg.metrics[0]) or cfg.depth) + cfg.leave_out_own_id
    k = min(k, len(collection.doc_ids))
    strengths = sorted({s for s in cfg.robustness_strengths if s > 0})
    kinds = list(dict.fromkeys(cfg.robustness))
    points: list[tuple[str, float]] = [(kind, 1.0 if kind == UNSEEN else 0.0) for kind in kinds]
    points += [(MERGED, 0.0)] if COPIES in kinds else []
    cases = [Case(tuple(points), queries, qrels, k)]
    for kind in kinds:
        if kind == UNSEEN:
            cases.append(_seen(collection, len(queries), k, seed))
        elif kind == COPIES:
            given = collection, queries, qrels, cfg.relevant_from
            cases += _floods(*given, k, strengths, seed)
        elif kind in QUERY_KINDS:
            for s in strengths:
                texts = [Query(q.id, perturb(kind, q.text, s, seed, q.id)) for q in queries]
                cases.append(Case(((kind, s),), texts, qrels, k))
        else:
            counts = [math.ceil(s * len(collection.doc_ids)) for s in strengths]
            added = _strangers(kind, cfg, collection, max(counts, default=0), seed)
            for s, count in zip(strengths, counts, strict=True):
                cases.append(Case(((kind, s),), queries, qrels, k, added[:count]))
    return cases


def _seen(collection: Collection, count: int, k: int, seed: int) -> Case:
    """Queries of the training split: at most as many as are evaluated, drawn by the seed."""
    judged = collection.qrels("train")
    chosen = set(sorted(judged, key=lambda qid: _place(seed, qid))[:count])
    queries = [q for q in collection.queries if q.id in chosen]
    return Case(((UNSEEN, 0.0),), queries, {q.id: judged[q.id] for q in queries}, k)


def _floods(
    collection: Collection,
    queries: list[Query],
    qrels: Qrels,
    relevant_from: int,
    k: int,
    strengths: Sequence[float],
    seed: int,
) -> list[Case]:
    """Unjudged copies of all relevant documents, up to `MOST_COPIES` of each. The search goes so
    deep that k documents are left when copies count as their originals.
    """
    judged = (pair for q in queries for pair in qrels[q.id].items())
    relevant = {doc for doc, grade in judged if grade >= relevant_from}
    rows = [row for row, name in enumerate(collection.doc_ids) if name in relevant]
    documents = [collection.documents[row] for row in rows]
    counts = [math.ceil(s * MOST_COPIES) for s in strengths]
    copies = [near_copies(doc, max(counts, default=0), seed) for doc in documents]
    cases = []
    for s, count in zip(strengths, counts, strict=True):
        added = [own[number] for number in range(count) for own in copies]
        originals = {
            own[number].id: doc.id
            for doc, own in zip(documents, copies, strict=True)
            for number in range(count)
        }
        deep = min(k * (count + 1), len(collection.doc_ids) + len(added))
        points = ((COPIES, s), (MERGED, s))
        cases.append(Case(points, queries, qrels, deep, added, originals))
    return cases


def _strangers(
    kind: str, cfg: EvalConfig, collection: Collection, count: int, seed: int
) -> list[Document]:
    """`count` documents to mix in; a smaller number of them is their beginning."""
    if kind == SHUFFLED:
        ids = collection.doc_ids
        rows = sorted(range(len(ids)), key=lambda row: _place(seed, ids[row]))[:count]
        return shuffled_documents([collection.documents[row] for row in rows], seed)
    source = second_collection(cfg)
    assert source is not None
    found = heapq.nsmallest(count, source.documents(), key=lambda doc: _place(seed, doc.id))
    if len(found) < count:
        raise bad_input(
            "--eval.robustness_documents",
            f"{cfg.robustness_documents} has {len(found)} documents",
            f"at least {count}, the largest strength times the collection's own number",
            "name a larger collection, or lower --eval.robustness_strengths",
        )
    return [Document(f"foreign:{doc.id}", doc.title, doc.text) for doc in found]


def _place(seed: int, name: str) -> bytes:
    """Sorting by it is an order that the seed draws, and that one name more does not change."""
    return hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
