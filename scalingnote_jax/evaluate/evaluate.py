"""The offline evaluation: every system on the same queries, and the two query towers on the very
same index.

Writes `eval/metrics.json`, `eval/per_query.jsonl`, one TREC run per row and `report.html`. An
approximate search is always shown beside the exact one over the same vectors, because a lost
document may be the tower's fault or the index's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax.sharding import Mesh

from scalingnote_jax import mesh as mesh_lib
from scalingnote_jax.config import Config, ExactConfig
from scalingnote_jax.configfile import to_json
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.data.sources.base import Query
from scalingnote_jax.errors import bad_input
from scalingnote_jax.evaluate.bm25 import bm25_run
from scalingnote_jax.evaluate.metrics import evaluate_run, parse_metric, write_trec
from scalingnote_jax.evaluate.report import write_report
from scalingnote_jax.progress import progress, say
from scalingnote_jax.retrieval.encode import side_vectors
from scalingnote_jax.retrieval.encoder import Encoder, load_encoder
from scalingnote_jax.retrieval.exact import compare, exact_search, overlap
from scalingnote_jax.retrieval.scann_index import ScannIndex
from scalingnote_jax.retrieval.store import RowsOnDisk, VectorStore, partial_folder, put_in_place
from scalingnote_jax.train.loop import read_metrics
from scalingnote_jax.workdir import Workdir

Run = dict[str, list[tuple[str, float]]]
EXAMPLES = 8
AGREE_AT = 10  # the k of ann_recall


@dataclass
class Row:
    """One line of the table: a system under one kind of search, its run and its other figures."""

    system: str
    search: str  # "exact" | "scann" | "lexical"
    run: Run
    facts: dict[str, Any] = field(default_factory=dict)


def evaluate(
    config: Config, collection: Collection, workdir: Workdir, mesh: Mesh
) -> dict[str, Any]:
    """Evaluates the config's systems and writes the results; returns what `metrics.json` holds."""
    cfg = config.eval
    qrels = collection.qrels(cfg.split)
    known = set(qrels)
    queries = [q for q in collection.queries if q.id in known]
    depth = min(cfg.depth, len(collection.doc_ids))
    deepest = max(parse_metric(name)["cutoff"] for name in cfg.metrics)
    if deepest > cfg.depth:
        raise bad_input("--eval.depth", str(cfg.depth), f"at least {deepest}", "raise it")
    rows: list[Row] = []
    for system in cfg.systems:
        if system == "bm25":
            rows.append(_lexical(collection, queries, depth, cfg.latency_queries))
        else:
            rows += _dense(config, collection, workdir, mesh, system, queries, depth)
    if not mesh_lib.first_process():
        return {}
    return _write(config, collection, workdir, qrels, queries, rows)


def _lexical(collection: Collection, queries: list[Query], depth: int, timed: int) -> Row:
    with progress("bm25", total=len(queries), unit="queries") as bar:
        run, seconds = bm25_run(collection.documents, queries, depth, timed)
        bar.advance(len(queries))
    return Row("bm25", "lexical", run, _latency(seconds))


def _dense(
    config: Config,
    collection: Collection,
    workdir: Workdir,
    mesh: Mesh,
    system: str,
    queries: list[Query],
    depth: int,
) -> list[Row]:
    """The rows of one query tower: exact search and, where there is an index of its document
    vectors, ScaNN.
    """
    encoder = load_encoder(config, workdir, system, "query", mesh)
    document_tower = "untrained" if system == "untrained" else "teacher"
    store = side_vectors(config, collection, workdir, document_tower, "doc", mesh)
    with progress(f"search ({system})", total=len(queries), unit="queries") as bar:
        vectors = encoder.unit(encoder.encode([q.text for q in queries]))
        cfg, documents = config.eval.exact, store.on_disk()
        scores, found = exact_search(vectors, documents, depth, cfg, mesh)
        facts = {
            "query_tower": _tower_name(config, system),
            "doc_tower": _tower_name(config, document_tower),
            "params_non_embedding": encoder.tower.num_params(non_embedding=True),
        }
        near = _nearness(cfg, vectors, documents, depth, mesh, system)
        rows = [Row(system, "exact", _as_run(queries, store, scores, found), facts | near)]
        if system != "untrained":
            index = ScannIndex.open(workdir.index, store.fingerprint)
            ann_scores, ann_found = index.search(vectors, depth)
            agreement = {f"ann_recall@{AGREE_AT}": overlap(found, ann_found, AGREE_AT)}
            timing = _latency(
                _time_queries(encoder, index, queries[: config.eval.latency_queries], depth)
            )
            ann = _as_run(queries, store, ann_scores, ann_found)
            rows.append(Row(system, "scann", ann, facts | agreement | timing))
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


def _tower_name(config: Config, system: str) -> str:
    cfg = config.teacher.query if system in ("teacher", "untrained") else config.distill.student
    layers = f", {cfg.num_layers} layers" if cfg.num_layers else ""
    kind = {"untrained": " (untrained)", "student_int8": " (int8)"}.get(system, "")
    return f"{cfg.weights.removeprefix('pip:')}{layers}{kind}"


def _as_run(queries: list[Query], store: VectorStore, scores: np.ndarray, rows: np.ndarray) -> Run:
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


def _write(
    config: Config,
    collection: Collection,
    workdir: Workdir,
    qrels: Any,
    queries: list[Query],
    rows: list[Row],
) -> dict[str, Any]:
    folder = partial_folder(workdir.eval)
    out: list[dict[str, Any]] = []
    per_query: list[dict[str, Any]] = []
    for row in rows:
        means, singles = evaluate_run(qrels, row.run, config.eval.metrics)
        out.append(_metrics_row(row, means, len(singles)))
        per_query += [
            {"system": row.system, "search": row.search, "query": qid, **values}
            for qid, values in singles.items()
        ]
        write_trec(
            folder / f"{row.system}-{row.search}.trec", row.run, f"{row.system}-{row.search}"
        )
    metrics = {"dataset": _dataset_name(config), "rows": out, "retention": retention(out)}
    lines = "".join(json.dumps(line) + "\n" for line in per_query)
    (folder / "per_query.jsonl").write_text(lines)
    curves = {name: read_metrics(f / "metrics.jsonl") for name, f in _stages(workdir).items()}
    examples = _examples(collection, qrels, queries, rows)
    write_report(workdir.report, metrics, curves, examples, to_json(config))
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    put_in_place(folder, workdir.eval)
    return metrics


def _stages(workdir: Workdir) -> dict[str, Any]:
    return {"train": workdir.teacher, "distill": workdir.student}


def _metrics_row(row: Row, means: dict[str, float], queries: int) -> dict[str, Any]:
    empty: dict[str, Any] = {
        "query_tower": None,
        "doc_tower": None,
        f"ann_recall@{AGREE_AT}": None,
        "query_ms_p50": None,
        "query_ms_p99": None,
        "params_non_embedding": None,
    }
    head = {"system": row.system, "search": row.search, "queries": queries, "metrics": means}
    return head | empty | row.facts


def retention(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Student / teacher for each metric, both from the same search; {} unless both are there."""
    for search in ("scann", "exact"):
        found = {r["system"]: r["metrics"] for r in rows if r["search"] == search}
        if "student" in found and "teacher" in found:
            return {
                name: value / found["teacher"][name]
                for name, value in found["student"].items()
                if found["teacher"][name] > 0
            }
    return {}


def _dataset_name(config: Config) -> str:
    return (
        config.data.path.rstrip("/").rsplit("/", 1)[-1]
        if config.data.source == "beir"
        else config.data.source
    )


def _examples(
    collection: Collection, qrels: Any, queries: list[Query], rows: list[Row]
) -> list[dict[str, Any]]:
    """A spread of queries, not the best ones: every n-th in order of id."""
    if not queries:
        raise bad_input(
            "eval", "no judged query", "a split with judgements", "choose another --eval.split"
        )
    chosen = sorted(queries, key=lambda q: q.id)[:: max(1, len(queries) // EXAMPLES)][:EXAMPLES]
    place = {doc_id: i for i, doc_id in enumerate(collection.doc_ids)}
    shown = {
        row.system: row for row in rows
    }  # the last row of a system: the approximate search where there is one

    def text_of(doc_id: str) -> str:
        document = collection.documents[place[doc_id]]
        return f"{document.title}: {document.text}" if document.title else document.text

    return [
        {
            "query": q.text,
            "relevant": sorted(d for d, grade in qrels[q.id].items() if grade > 0),
            "results": {
                name: [(d, text_of(d), s) for d, s in row.run.get(q.id, [])[:5]]
                for name, row in shown.items()
            },
        }
        for q in chosen
    ]
