"""The offline evaluation: every system on the same queries, and the two query towers on the very
same index.

An approximate search is always shown beside the exact one over the same vectors, because a lost
document may be the tower's fault or the index's. What a row is stands in `rows.py`, what is written
in `write.py`; docs/evaluation.md says what each number means.
"""

from __future__ import annotations

from typing import Any

from jax.sharding import Mesh

from scalingnote_jax.config import Config, EvalConfig
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import bad_input
from scalingnote_jax.evaluate.cross_domain import cross_domain, lines, matrix
from scalingnote_jax.evaluate.judged import Judged
from scalingnote_jax.evaluate.metrics import cutoff_of
from scalingnote_jax.evaluate.robustness import robustness
from scalingnote_jax.evaluate.rows import system_rows
from scalingnote_jax.evaluate.run_files import run_rows
from scalingnote_jax.evaluate.write import write
from scalingnote_jax.vectors.encoder import Encoders
from scalingnote_jax.vectors.pairing import check_students
from scalingnote_jax.workflow.workdir import Workdir


def evaluate(
    config: Config, collection: Collection, workdir: Workdir, mesh: Mesh
) -> dict[str, Any]:
    """Evaluates the config's systems and writes the results; returns what `metrics.json` holds.

    In memory are the judgements, queries × D for a tower at a time, and queries × depth for each
    row; never the scores of all documents.

    Raises:
        UserError: the metrics, the split, a run file or the student's teacher are not as they
            should be. Said before anything is encoded.
    """
    qrels = collection.qrels(config.eval.split)
    queries = [q for q in collection.queries if q.id in qrels]
    _check(config.eval, len(queries))
    check_students(config, workdir)
    others = run_rows(config.eval, collection, set(qrels))
    judged = Judged.of(qrels, [q.id for q in queries], collection.doc_ids, config.seed)
    encoders = Encoders(config, workdir, mesh)
    rows = system_rows(config, collection, workdir, encoders, queries, judged) + others
    more: dict[str, Any] = {}  # further fields of metrics.json
    if config.eval.robustness:
        more["robustness"] = robustness(config, collection, workdir, encoders)
    tested = cross_domain(config, collection, workdir, encoders, qrels, rows)
    if tested:
        more["collections"] = matrix(tested, config.eval.metrics, config.seed)
    if not mesh_lib.first_process():
        return {}
    return write(config, collection, workdir, qrels, queries, rows, more, lines(tested))


def _check(cfg: EvalConfig, queries: int) -> None:
    deepest = max(cutoff_of(name) for name in cfg.metrics)
    if deepest > cfg.depth:
        raise bad_input("--eval.depth", str(cfg.depth), f"at least {deepest}", "raise it")
    if not queries:
        raise bad_input(
            "eval", "no judged query", "a split with judgements", "choose another --eval.split"
        )
