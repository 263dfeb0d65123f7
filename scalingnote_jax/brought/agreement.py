"""The evaluation where there are no texts and no judgements: how many of the teacher's best
documents the student finds, and how many of the exact best the index finds. On query texts that the
student has not learned.

What people judged says more: with a collection the whole evaluation is run, `evaluate/`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.sharding import Mesh

from scalingnote_jax.config import EncodeConfig, EvalConfig
from scalingnote_jax.data.sources.base import Query
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import bad_input
from scalingnote_jax.evaluate import statistics
from scalingnote_jax.evaluate.rows import recall_cutoffs, tower_name
from scalingnote_jax.progress import progress
from scalingnote_jax.retrieval.exact import exact_search, overlaps
from scalingnote_jax.retrieval.latency import Asked, device_name, time_searcher
from scalingnote_jax.retrieval.scann.scann_index import DEFAULT_K, ScannIndex
from scalingnote_jax.retrieval.texts import CollectionTexts
from scalingnote_jax.vectors.encoder import load_encoder, unit_rows
from scalingnote_jax.vectors.store import VectorStore
from scalingnote_jax.vectors.taught import Taught
from scalingnote_jax.vectors.trained import TrainedTower
from scalingnote_jax.workflow.artefact import partial_folder, put_in_place
from scalingnote_jax.workflow.engine import Place

_NOTHING: dict[str, Any] = {
    "query_ms_p50": None,
    "query_ms_p99": None,
    "params_non_embedding": None,
}


@dataclass(frozen=True)
class Searched:
    """Where queries are searched for.

    Attributes:
        store: the document vectors.
        index: over them.
        texts: of the documents, if there are any.
        cfg: depth, cutoffs, exact search.
        mesh: the devices.
    """

    store: VectorStore
    index: ScannIndex
    texts: CollectionTexts
    cfg: EvalConfig
    mesh: Mesh

    @property
    def cutoffs(self) -> list[int]:
        """Those of the Recall metrics, as far as there are documents."""
        return [k for k in recall_cutoffs(self.cfg.metrics) if k <= len(self.store)]


def agreement(
    name: str,
    student: TrainedTower | None,
    taught: Taught,
    searched: Searched,
    encode: EncodeConfig,
    seed: int,
    place: Place,
) -> None:
    """Writes eval/metrics.json and eval/per_query.jsonl.

    Args:
        name: of the run.
        student: the shipped query tower; None: there is no stage 2.
        taught: the texts that are watched, with the teacher's vectors of them.

    Raises:
        UserError: no text is watched.
    """
    texts, cutoffs = taught.watched, searched.cutoffs
    if not texts:
        given = "no query text was left out of stage 2"
        fix = "set --distill.probe_queries to 256, and give more texts than that"
        raise bad_input("eval", given, "some to watch the student on", fix)
    dim = searched.store.dim
    raw = taught.vectors.vectors()[len(taught.texts.learned) :]
    teacher = unit_rows(np.asarray(raw)[:, :dim])
    best = _exact(teacher, searched)
    rows, singles = [], []
    for system, vectors, facts in _systems(student, texts, teacher, searched, encode, seed):
        found = best if system == "teacher" else _exact(vectors, searched)
        by_index = searched.index.search(vectors, max(cutoffs))[1]
        ann = {f"ann_recall@{k}": float(overlaps(found, by_index, k).mean()) for k in cutoffs}
        for search, documents in (("exact", found), ("scann", by_index)):
            values = np.stack([overlaps(best, documents, k) for k in cutoffs], axis=1)
            singles.append(values)
            more = ann | facts if search == "scann" else dict.fromkeys(ann)
            rows.append({"system": system, "search": search, "queries": len(texts)} | more)
    if not mesh_lib.first_process():
        return
    names = [f"Overlap@{k}" for k in cutoffs]
    means = statistics.resampled_means(np.stack(singles), seed)
    for at, (row, values) in enumerate(zip(rows, singles, strict=True)):
        row |= {"metrics": dict(zip(names, values.mean(axis=0).tolist(), strict=True))}
        row["intervals"] = {n: statistics.interval(means[:, at, m]) for m, n in enumerate(names)}
    shipped = "student" if student else "teacher"
    kept = next(r["metrics"] for r in rows if (r["system"], r["search"]) == (shipped, "exact"))
    metrics: dict[str, Any] = {
        "dataset": name,
        "rows": [_NOTHING | row for row in rows],
        "retention": kept if student else {},
        "shipped": shipped,
        "agreement": "of the teacher's best documents by exact search, on texts not learned",
        "latency_device": device_name(),
    }
    folder = partial_folder(place.folder)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    with (folder / "per_query.jsonl").open("w", encoding="utf-8") as file:
        for row, values in zip(rows, singles, strict=True):
            for text, found in zip(texts, values.tolist(), strict=True):
                line = {"system": row["system"], "search": row["search"], "query": text}
                file.write(json.dumps(line | dict(zip(names, found, strict=True))) + "\n")
    put_in_place(folder, place.folder)


def _exact(vectors: np.ndarray, searched: Searched) -> np.ndarray:
    rows, deepest = searched.store.on_disk(), max(searched.cutoffs)
    return exact_search(vectors, rows, deepest, searched.cfg.exact, searched.mesh)[1]


def _systems(
    student: TrainedTower | None,
    texts: list[str],
    teacher: np.ndarray,
    searched: Searched,
    encode: EncodeConfig,
    seed: int,
) -> list[tuple[str, np.ndarray, dict[str, Any]]]:
    """Name, unit vectors and figures of each query tower."""
    found: list[tuple[str, np.ndarray, dict[str, Any]]] = [("teacher", teacher, {})]
    if student is None:
        return found
    encoder = load_encoder(student, encode, searched.mesh)
    with progress("search (student)", total=len(texts), unit="queries") as bar:
        vectors = encoder.unit(encoder.encode(texts))
        bar.advance(len(texts))
    rng = np.random.default_rng(seed)
    places = rng.permutation(len(texts))[: searched.cfg.latency_queries]
    timed = [Query(str(i), texts[i]) for i in places]
    asked = Asked(timed, timed[:1], min(DEFAULT_K, len(searched.store)))
    given = encoder, searched.index, searched.store, searched.texts
    facts: dict[str, Any] = {
        "query_tower": tower_name(student.cfg),
        "params_non_embedding": encoder.tower.num_params(non_embedding=True),
        "cosine_to_teacher": float((vectors * teacher).sum(axis=1).mean()),
    }
    return [*found, ("student", vectors, facts | time_searcher(asked, student.role, *given))]
