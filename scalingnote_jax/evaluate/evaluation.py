"""The offline evaluation: every system on the same queries, and the two query towers on the very
same index.

An approximate search is always shown beside the exact one over the same vectors, because a lost
document may be the tower's fault or the index's. What a row is stands in `rows.py`, what is written
in `write.py`; docs/evaluation.md says what each number means.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from scalingnote_jax.config import EvalConfig
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import bad_input
from scalingnote_jax.evaluate.cross_domain import content_hashes, cross_domain, lines, matrix
from scalingnote_jax.evaluate.disturbances import second_collection
from scalingnote_jax.evaluate.judged import Judged
from scalingnote_jax.evaluate.metrics import cutoff_of
from scalingnote_jax.evaluate.robustness import robustness
from scalingnote_jax.evaluate.rows import system_rows
from scalingnote_jax.evaluate.run_files import run_hashes, run_rows
from scalingnote_jax.evaluate.subject import Subject
from scalingnote_jax.evaluate.write import write
from scalingnote_jax.hashing import file_hash
from scalingnote_jax.vectors.encoder import Encoders
from scalingnote_jax.vectors.pairing import check_students


def evaluate(subject: Subject, mesh: Mesh) -> dict[str, Any]:
    """Evaluates a run's systems and writes the results; returns what `metrics.json` holds.

    In memory are the judgements, queries × D for a tower at a time, and queries × depth for each
    row; never the scores of all documents.

    Raises:
        UserError: the metrics, the split, a run file or the student's teacher are not as they
            should be. Said before anything is encoded.
    """
    cfg, collection = subject.eval, subject.collection
    qrels = collection.qrels(cfg.split)
    queries = [q for q in collection.queries if q.id in qrels]
    _check(cfg, sum(_counts(cfg, qrels[q.id]) for q in queries))
    check_students(subject.towers, subject.systems)
    others = run_rows(cfg, collection, set(qrels))
    ids = [q.id for q in queries]
    judged = Judged.of(qrels, ids, collection.doc_ids, subject.seed, cfg.relevant_from)
    encoders = Encoders(subject.towers, subject.encode, mesh)
    rows = system_rows(subject, encoders, queries, judged) + others
    more: dict[str, Any] = {}  # further fields of metrics.json
    if cfg.robustness:
        more["robustness"] = robustness(subject, encoders)
    tested = cross_domain(subject, encoders, qrels, rows)
    if tested:
        more["collections"] = matrix(tested, cfg.metrics, subject.seed)
    if not mesh_lib.first_process():
        return {}
    return write(subject, qrels, queries, rows, more, lines(tested))


def outside(settings: Any) -> list[Any]:
    """What an evaluation is made from beside the run: the content of the files that its config
    names.
    """
    cfg = settings.eval
    second = second_collection(cfg)
    foreign = second.fingerprint() if second else ""
    return [run_hashes(cfg.runs), foreign, content_hashes(cfg, settings.data)]


def content(folder: Path) -> str:
    """The content hash of an evaluation."""
    return file_hash(folder / "metrics.json")


def _counts(cfg: EvalConfig, grades: Mapping[str, int]) -> bool:
    """Whether a query has a relevant document."""
    return any(grade >= cfg.relevant_from for grade in grades.values())


def _check(cfg: EvalConfig, queries: int) -> None:
    """`queries`: those that count."""
    deepest = max(cutoff_of(name) for name in cfg.metrics)
    if deepest > cfg.depth:
        raise bad_input("--eval.depth", str(cfg.depth), f"at least {deepest}", "raise it")
    if not queries:
        given = f"no query has a document of grade {cfg.relevant_from} or higher"
        fix = "choose another --eval.split, or lower --eval.relevant_from"
        raise bad_input("eval", given, "judgements to measure with", fix)
