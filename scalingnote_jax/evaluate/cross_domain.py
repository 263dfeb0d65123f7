"""The towers on collections that they were not trained on: rows of the matrix "trained on × tested
on".

Each collection is searched exactly, with the towers as they are. Its data and vectors are kept
under `WORKDIR/collections/NAME/` and made again only if they changed. One workdir at a time: what
several say together is in `compare.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scalingnote_jax.config import DataConfig, EvalConfig
from scalingnote_jax.config.values import section_hash
from scalingnote_jax.data.dataset import Collection, build_dataset
from scalingnote_jax.data.sources import Qrels, Query, Source, open_source
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import UserError, bad_input
from scalingnote_jax.evaluate import statistics
from scalingnote_jax.evaluate.metrics import evaluate_run, without_own
from scalingnote_jax.evaluate.rows import Row, Run, as_run
from scalingnote_jax.evaluate.subject import Subject, dataset_name
from scalingnote_jax.evaluate.write import PerQuery
from scalingnote_jax.progress import progress
from scalingnote_jax.retrieval.bm25 import bm25_run
from scalingnote_jax.retrieval.exact import exact_search
from scalingnote_jax.systems import TEACHER, System, is_lexical, is_student
from scalingnote_jax.vectors.encode import side_vectors
from scalingnote_jax.vectors.encoder import Encoder, Encoders
from scalingnote_jax.vectors.store import VectorStore
from scalingnote_jax.version import __version__
from scalingnote_jax.workflow.workdir import Workdir, is_done, mark_done

OPTION = "--eval.collections"
SEARCHES = ("lexical", "exact")  # of the rows that stand for the run's own collection


@dataclass(frozen=True)
class Outcome:
    """What the systems reached on one collection.

    Attributes:
        fingerprint: of the collection's content.
        singles: system → query id → metric → value; the queries are the same for all systems.
    """

    name: str
    fingerprint: str
    singles: dict[str, PerQuery]


@dataclass(frozen=True)
class _Other:
    """A further collection, opened. Its workdir has the run's towers."""

    name: str
    workdir: Workdir
    collection: Collection
    qrels: Qrels
    queries: list[Query]

    def depth(self, cfg: EvalConfig) -> int:
        return min(cfg.depth + cfg.leave_out_own_id, len(self.collection.doc_ids))


def check_collections(cfg: EvalConfig, data: DataConfig, systems: Sequence[System]) -> None:
    """
    Raises:
        UserError: a folder of `eval.collections` is not one, has no judgements in the split, or
            shares its name with another; or no system can be tested there.
    """
    for name, path in folders(cfg, data).items():
        if not _source(cfg, data, name, path).qrels(cfg.split):
            given = f"{path} has no judgements in qrels/{cfg.split}.tsv"
            fix = "leave it out, or choose another --eval.split"
            raise bad_input(OPTION, given, "the split that is evaluated", fix)
    if cfg.collections and not any(system.elsewhere for system in systems):
        fix = f"add one, or leave {OPTION} out"
        given = ", ".join(cfg.systems) or "none"
        raise bad_input("--eval.systems", given, "a trained system or bm25", fix)


def folders(cfg: EvalConfig, data: DataConfig) -> dict[str, str]:
    """Name → path of `eval.collections`. The folder that the run was trained on is left out: it is
    tested anyway, so that one list serves the runs of all of them.

    Raises:
        UserError: see `check_collections`.
    """
    found = dict[str, str]()
    own = Path(data.path).resolve() if data.source == "beir" and data.path else None
    for entry in cfg.collections:
        name, path = _name_and_path(entry)
        if not Path(path).is_dir():
            fix = "check the path; a name goes in front of it, as NAME=path"
            raise bad_input(OPTION, f"{path!r} is not a folder", "folders in BEIR layout", fix)
        if Path(path).resolve() == own:
            continue
        if name in (*found, dataset_name(data)):
            given, fix = f"two collections with the name {name!r}", f"write NAME={path}"
            raise bad_input(OPTION, given, "a name of its own for each", fix)
        found[name] = path
    return found


def _name_and_path(entry: str) -> tuple[str, str]:
    name, sign, path = entry.partition("=")
    if not sign or "/" in name:  # the sign is part of the path
        name, path = Path(entry).resolve().name, entry
    if name in ("", ".", ".."):
        raise bad_input(OPTION, repr(entry), "a path, or NAME=path", "name the collection")
    return name, path


def content_hashes(cfg: EvalConfig, data: DataConfig) -> list[list[str]]:
    """Name and content hash of each further collection."""
    return [[n, _source(cfg, data, n, p).fingerprint()] for n, p in folders(cfg, data).items()]


def _data(cfg: EvalConfig, own: DataConfig, path: str) -> DataConfig:
    more = (cfg.split,) if cfg.split in own.more_splits else ()
    return DataConfig(source="beir", path=path, max_text_bytes=own.max_text_bytes, more_splits=more)


def _source(cfg: EvalConfig, own: DataConfig, name: str, path: str) -> Source:
    try:
        return open_source(_data(cfg, own, path))
    except UserError as e:
        raise UserError(f"{OPTION}, {name}: {e}") from e


def cross_domain(
    subject: Subject, encoders: Encoders, qrels: Qrels, rows: Sequence[Row]
) -> list[Outcome]:
    """What the systems reach on the run's own collection and on each of `eval.collections`.

    In memory are the run of one system on one collection at a time, the vectors of its judged
    queries and the blocks of the exact search; for bm25 its texts and inverted index; and of all
    the metrics of each query. Every process takes part and gets the same.

    Args:
        encoders: the run's towers.
        qrels: the judgements of the own collection.
        rows: what was found there.

    Returns:
        the own collection first; [] where there are no others.
    """
    cfg, data = subject.eval, subject.data
    others = [_open(subject, name, path) for name, path in folders(cfg, data).items()]
    if not others:
        return []
    wanted = [system for system in subject.systems if system.elsewhere]
    stores = _documents(subject, encoders, others) if any(s.query for s in wanted) else []
    found = {row.system: row.run for row in rows if row.search in SEARCHES}
    own = Outcome(subject.name, subject.collection.fingerprint, {})
    tested = [Outcome(other.name, other.collection.fingerprint, {}) for other in others]
    for system in wanted:
        name = subject.row_name(system)
        least = cfg.relevant_from
        own.singles[name] = evaluate_run(qrels, found[name], cfg.metrics, least)[1]
        if system.query is None:
            runs = _lexical(system.name, cfg, others)
        else:
            encoder = encoders.get(system.query, "query")
            runs = _dense(system.name, cfg, encoder, others, stores)
        for other, one, run in zip(others, tested, runs, strict=True):
            if cfg.leave_out_own_id:
                run = without_own(run, cfg.depth)
            one.singles[name] = evaluate_run(other.qrels, run, cfg.metrics, least)[1]
    return [own, *tested]


def _open(subject: Subject, name: str, path: str) -> _Other:
    """Builds the collection's data, unless nothing has changed."""
    here, source = (
        subject.workdir.with_collection(name),
        _source(subject.eval, subject.data, name, path),
    )
    cfg = _data(subject.eval, subject.data, path)
    inputs = section_hash(source.fingerprint(), __version__)
    if mesh_lib.first_process() and not is_done(here.data, inputs):
        here.data.parent.mkdir(parents=True, exist_ok=True)
        build_dataset(cfg, here.data)
        mark_done(here.data, inputs, Collection.open(here.data).fingerprint)
    mesh_lib.barrier(f"collection {name}")
    built = Collection.open(here.data)
    qrels = built.qrels(subject.eval.split)
    return _Other(name, here, built, qrels, [q for q in built.queries if q.id in qrels])


def _documents(subject: Subject, encoders: Encoders, others: list[_Other]) -> list[VectorStore]:
    """The document vectors of each collection, by the teacher."""
    encoder, mesh = partial(encoders.get, "teacher", "doc"), encoders.mesh
    tower, cfg = subject.towers.get("teacher", "doc"), subject.encode
    return [
        side_vectors(tower, o.collection, o.workdir.vectors, o.workdir.tokens, cfg, mesh, encoder)
        for o in others
    ]


def _dense(
    system: str,
    cfg: EvalConfig,
    encoder: Encoder,
    others: list[_Other],
    stores: list[VectorStore],
) -> Iterator[Run]:
    for other, store in zip(others, stores, strict=True):
        texts = [q.text for q in other.queries]
        with progress(f"{system}, {other.name}", total=len(texts), unit="queries") as bar:
            vectors, documents = encoder.unit(encoder.encode(texts)), store.on_disk()
            found = exact_search(vectors, documents, other.depth(cfg), cfg.exact, encoder.mesh)
            bar.advance(len(texts))
        yield as_run(other.queries, store, *found)


def _lexical(system: str, cfg: EvalConfig, others: list[_Other]) -> Iterator[Run]:
    for other in others:
        queries = other.queries
        with progress(f"{system}, {other.name}", total=len(queries), unit="queries") as bar:
            run, _ = bm25_run(other.collection.documents, queries, other.depth(cfg))
            bar.advance(len(queries))
        yield run


def matrix(tested: Sequence[Outcome], names: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """Of each collection and system {"trained_on", "tested_on", "fingerprint", "system", "queries",
    "metrics", "intervals"}, and for a student beside its teacher "retention" and
    "retention_intervals". 95 % intervals, from the same resamples for all systems.

    Args:
        tested: the collection that the run was trained on first; none gives [].
        names: of the metrics.
    """
    rows = []
    for one in tested:
        singles = one.singles.values()
        values = np.array([[[v[n] for n in names] for v in single.values()] for single in singles])
        resampled = statistics.resampled_means(values, seed)
        places = {system: at for at, system in enumerate(one.singles)}
        for system, at in places.items():
            row = {
                "trained_on": None if is_lexical(system) else tested[0].name,
                "tested_on": one.name,
                "fingerprint": one.fingerprint,
                "system": system,
                "queries": values.shape[1],
                "metrics": dict(zip(names, values[at].mean(axis=0).tolist(), strict=True)),
                "intervals": {
                    n: statistics.interval(resampled[:, at, m]) for m, n in enumerate(names)
                },
            }
            if is_student(system) and TEACHER in places:
                pair = [at, places[TEACHER]]
                row |= _retention(values[pair].mean(axis=1), resampled[:, pair], names)
            rows.append(row)
    return rows


def _retention(
    means: np.ndarray, resampled: np.ndarray, names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Student / teacher where the teacher is above 0, from means [2, metrics] and resampled ones
    [resamples, 2, metrics].
    """
    kept, spread = dict[str, float](), dict[str, list[float]]()
    for m, name in enumerate(names):
        if means[1, m] > 0:
            kept[name] = float(means[0, m] / means[1, m])
            spread[name] = statistics.ratio_interval(resampled[:, 0, m], resampled[:, 1, m])
    return {"retention": kept, "retention_intervals": spread}


def lines(tested: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    """Of each collection, system and query the metrics: the lines of `eval/collections.jsonl`."""
    for one in tested:
        for system, single in one.singles.items():
            for query, values in single.items():
                yield {"collection": one.name, "system": system, "query": query, **values}
