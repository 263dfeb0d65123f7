"""What a disturbance costs each system: curves of one metric against its strength.

Queries are disturbed (`perturb.py`), documents that nobody asked for join the corpus, or queries of
the training split stand beside those of the split that is evaluated (`cases.py`). The search is
exact and over the document vectors that are there; only documents that join are encoded. Not for
pictures: the report draws them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalingnote_jax.config import DataConfig, EvalConfig, ExactConfig
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.data.sources import Query
from scalingnote_jax.data.sources.mixture import bare
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.evaluate.disturbances import KINDS, MERGED, Case, check_robustness, make_cases
from scalingnote_jax.evaluate.metrics import cutoff_of, evaluate_run, without_own
from scalingnote_jax.evaluate.statistics import interval, resampled_means
from scalingnote_jax.evaluate.subject import Subject
from scalingnote_jax.progress import progress
from scalingnote_jax.retrieval.bm25 import bm25_run
from scalingnote_jax.retrieval.exact import exact_search
from scalingnote_jax.vectors.encoder import Encoder, Encoders
from scalingnote_jax.vectors.store import VectorStore

Run = dict[str, list[tuple[str, float]]]


@dataclass
class CurvePoint:
    """One point of a curve: its row in `metrics.json`, and the metric of each query."""

    row: dict[str, Any]
    values: dict[str, float]


def robustness(subject: Subject, encoders: Encoders) -> list[dict[str, Any]]:
    """The curves of all systems but the untrained one, by the first of the evaluation's metrics.

    Args:
        encoders: of the evaluation: what its rows loaded is not loaded again.

    Returns:
        Of each point {"kind", "strength", "system", "metric", "value", "interval": [low, high]}
        (95 %), sorted by kind, system and strength; each curve begins at strength 0, undisturbed.
        [] on all processes but the first.
    """
    cfg, collection = subject.eval, subject.collection
    check_robustness(cfg)
    if not cfg.robustness:
        return []
    cases = make_cases(cfg, subject.seed, collection)
    names = {s: subject.row_name(s) for s in subject.systems if s.elsewhere}
    points: list[CurvePoint] = []
    total = len(names) * sum(len(case.queries) for case in cases)
    folder = subject.towers.get("teacher", "doc").store(subject.workdir.vectors)
    with progress("robustness", total=total, unit="queries") as bar:
        joined = _encode_added(encoders, cases) if any(s.query for s in names) else {}
        for system, name in names.items():
            if system.query is None:
                first = mesh_lib.first_process()
                runs = _lexical(subject.data, collection, cases) if first else []
            else:
                encoder = encoders.get(system.query, "query")
                runs = _dense(cfg.exact, VectorStore.open(folder), encoder, cases, joined)
            if mesh_lib.first_process():
                for case, run in zip(cases, runs, strict=True):
                    points += score_points(case, run, name, cfg)
            bar.advance(total // len(names))
    set_intervals(points, subject.seed)
    kinds, order = [*KINDS, MERGED], list(names.values())
    return sorted(
        (point.row for point in points),
        key=lambda r: (kinds.index(r["kind"]), order.index(r["system"]), r["strength"]),
    )


def _lexical(data: DataConfig, collection: Collection, cases: list[Case]) -> list[Run]:
    """One index for all cases without added documents, one more for each with them; as in its row,
    without the prompts of a mixture.
    """
    plain = [(i, case) for i, case in enumerate(cases) if not case.added]
    asked = [Query(f"{i} {q.id}", q.text) for i, case in plain for q in bare(data, case.queries)]
    found, _ = bm25_run(bare(data, collection.documents), asked, cases[0].k)
    runs = []
    for i, case in enumerate(cases):
        if case.added:
            corpus = itertools.chain(bare(data, collection.documents), case.added)
            runs.append(bm25_run(corpus, list(bare(data, case.queries)), case.k)[0])
        else:
            runs.append({q.id: found[f"{i} {q.id}"] for q in case.queries})
    return runs


def _encode_added(encoders: Encoders, cases: list[Case]) -> dict[str, np.ndarray]:
    """Id of an added document → [D], by the teacher's document tower; each is encoded once."""
    documents = {doc.id: doc for case in cases for doc in case.added}
    if not documents:
        return {}
    encoder = encoders.get("teacher", "doc")
    vectors = encoder.encode([(doc.title, doc.text) for doc in documents.values()])
    return dict(zip(documents, encoder.unit(vectors), strict=True))


def _dense(
    cfg: ExactConfig,
    store: VectorStore,
    encoder: Encoder,
    cases: list[Case],
    joined: dict[str, np.ndarray],
) -> list[Run]:
    """All queries are encoded in one go, and all without added documents searched in one."""
    texts = [q.text for case in cases for q in case.queries]
    vectors = encoder.unit(encoder.encode(texts))
    owner = np.repeat(np.arange(len(cases)), [len(case.queries) for case in cases])
    plain = np.isin(owner, [i for i, case in enumerate(cases) if not case.added])
    mesh, own = encoder.mesh, store.on_disk()
    best = exact_search(vectors[plain], own, cases[0].k, cfg, mesh)
    runs = []
    for i, case in enumerate(cases):
        scores, rows = (x[owner[plain] == i] for x in best)
        if case.added:
            extra = np.stack([joined[doc.id] for doc in case.added])
            corpus = own.followed_by(extra)
            scores, rows = exact_search(vectors[owner == i], corpus, case.k, cfg, mesh)
        ids = [*store.ids, *(doc.id for doc in case.added)]
        runs.append(
            {
                query.id: [(ids[r], float(s)) for r, s in zip(*found, strict=True) if r >= 0]
                for query, found in zip(case.queries, zip(rows, scores, strict=True), strict=True)
            }
        )
    return runs


def score_points(case: Case, run: Run, system: str, cfg: EvalConfig) -> list[CurvePoint]:
    """The points that a case stands for; they have no interval yet."""
    points, metric = [], cfg.metrics[0]
    for kind, strength in case.points:
        ranked = merged(run, case.originals) if kind == MERGED else run
        if cfg.leave_out_own_id:
            ranked = without_own(ranked, cutoff_of(metric) or cfg.depth)
        means, singles = evaluate_run(case.qrels, ranked, [metric], cfg.relevant_from)
        row = {"kind": kind, "strength": strength, "system": system, "metric": metric}
        values = {query_id: found[metric] for query_id, found in singles.items()}
        points.append(CurvePoint(row | {"value": means[metric]}, values))
    return points


def set_intervals(points: list[CurvePoint], seed: int) -> None:
    """Adds the 95 % bootstrap interval to each row. Points of the same queries are resampled
    together: their intervals rise and fall with the same draws.
    """
    groups: dict[tuple[str, ...], list[CurvePoint]] = {}
    for point in points:
        groups.setdefault(tuple(point.values), []).append(point)
    for queries, group in groups.items():
        if not queries:  # none has a relevant document
            continue
        values = np.array([list(point.values.values()) for point in group])
        resampled = resampled_means(values[:, :, None], seed)
        for i, point in enumerate(group):
            point.row["interval"] = interval(resampled[:, i, 0])


def merged(run: Run, originals: dict[str, str]) -> Run:
    """The run with copies under their originals' ids; of each document its best place stays."""
    out: Run = {}
    for query_id, results in run.items():
        best: dict[str, float] = {}
        for doc_id, score in results:
            best.setdefault(originals.get(doc_id, doc_id), score)
        out[query_id] = list(best.items())
    return out
