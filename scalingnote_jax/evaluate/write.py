"""What the evaluation leaves: `eval/metrics.json`, `eval/per_query.jsonl`, a TREC run for each row,
the judgements that were used as `eval/qrels.txt`, what was reached on further collections as
`eval/collections.jsonl`, and `report.html`.

All of it appears at once or not at all. Computes no metric itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scalingnote_jax.data.overlaps import seen_entities
from scalingnote_jax.data.sources.base import Qrels, Query
from scalingnote_jax.evaluate import statistics
from scalingnote_jax.evaluate.costs import costs
from scalingnote_jax.evaluate.examples import Texts, relevant_ids, spread_examples, worst_queries
from scalingnote_jax.evaluate.metrics import evaluate_run, write_qrels, write_trec
from scalingnote_jax.evaluate.report import write_report
from scalingnote_jax.evaluate.rows import Row, recall_cutoffs
from scalingnote_jax.evaluate.subject import Subject
from scalingnote_jax.retrieval.latency import device_name
from scalingnote_jax.retrieval.scann.scann_index import DEFAULT_K, index_facts
from scalingnote_jax.systems import TEACHER, is_student
from scalingnote_jax.train.log.metrics_log import read_metrics
from scalingnote_jax.train.probe import alarms
from scalingnote_jax.workflow.artefact import partial_folder, put_in_place
from scalingnote_jax.workflow.workdir import Workdir

PerQuery = dict[str, dict[str, float]]
"""Query id → metric → value, the queries in the order of the judgements."""


def write(
    subject: Subject,
    qrels: Qrels,
    queries: list[Query],
    rows: list[Row],
    more: dict[str, Any],
    elsewhere: Iterable[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Scores the rows and writes everything; returns what `metrics.json` holds.

    Args:
        more: further fields of `metrics.json`.
        elsewhere: the lines of `collections.jsonl`; written if `more` has "collections".
    """
    workdir, names, collection = subject.workdir, subject.eval.metrics, subject.collection
    folder = partial_folder(workdir.eval)
    relevant_from = subject.eval.relevant_from
    scored = [evaluate_run(qrels, row.run, names, relevant_from) for row in rows]
    singles = [single for _, single in scored]
    write_qrels(folder / "qrels.txt", {qid: qrels[qid] for qid in (singles[0] if rows else ())})
    for row in rows:
        name = f"{row.system}-{row.search}"
        write_trec(folder / f"{name}.trec", row.run, name)
    _write_lines(folder / "per_query.jsonl", _per_query(rows, singles))
    if "collections" in more:
        _write_lines(folder / "collections.jsonl", elsewhere)
    out = [
        _metrics_row(row, means, len(single), recall_cutoffs(names))
        for row, (means, single) in zip(rows, scored, strict=True)
    ]
    spent = costs(subject)
    for line in out:
        line |= {"cost": spent[line["system"]]} if line["system"] in spent else {}
    texts, relevant = Texts(collection), relevant_ids(qrels, relevant_from)
    shipped = subject.stages.row_name(subject.stages.shipped)
    optional = _statistics(out, rows, singles, names, subject.seed, shipped) | {
        "index": _index(workdir),
        "scores": {row.system: row.scores for row in rows if row.scores is not None},
        "worst": _worst(texts, relevant, queries, rows, singles, out, names[0], shipped),
    }
    metrics = {"dataset": subject.name, "rows": out} | _about(subject, shipped)
    metrics |= {"retention": retention(out, shipped)}
    seen = seen_entities(collection, subject.eval.split)
    optional |= {"entities": by_entities(out, singles, seen, names, subject.seed, shipped)}
    optional["alarms"] = alarms(read_metrics(workdir.student / "metrics.jsonl"))
    metrics |= {name: value for name, value in optional.items() if value} | more
    curves = {name: read_metrics(f / "metrics.jsonl") for name, f in _stages(workdir).items()}
    examples = spread_examples(texts, relevant, queries, rows)
    write_report(workdir.report, metrics, curves, examples, subject.shown)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    put_in_place(folder, workdir.eval)
    return metrics


def _about(subject: Subject, shipped: str) -> dict[str, Any]:
    """What the numbers are of."""
    cfg, collection = subject.eval, subject.collection
    return {
        "shipped": shipped,
        "fingerprint": collection.fingerprint,
        "relevant_from": cfg.relevant_from,
        "leave_out_own_id": cfg.leave_out_own_id,
        "latency_device": device_name(),
        "latency_k": min(DEFAULT_K, len(collection.doc_ids)),
    }


def _per_query(rows: list[Row], singles: list[PerQuery]) -> Iterator[dict[str, Any]]:
    for row, single in zip(rows, singles, strict=True):
        for qid, values in single.items():
            yield {"system": row.system, "search": row.search, "query": qid, **values}


def _write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    with path.open("w") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")


def _statistics(
    out: list[dict[str, Any]],
    rows: list[Row],
    singles: list[PerQuery],
    names: Sequence[str],
    seed: int,
    shipped: str,
) -> dict[str, Any]:
    """Puts the intervals into the rows; returns the comparisons and those of the retention."""
    if not rows or not singles[0]:
        return {}
    values = np.array([[[v[n] for n in names] for v in single.values()] for single in singles])
    means = statistics.resampled_means(values, seed)
    for at, row in enumerate(out):
        row["intervals"] = {
            name: statistics.interval(means[:, at, m]) for m, name in enumerate(names)
        }
    kept: dict[str, list[float]] = {}
    pair = retention_pair(out, shipped)
    if pair is not None:
        student, teacher = (means[:, at] for at in pair)
        kept = {
            name: statistics.ratio_interval(student[:, m], teacher[:, m])
            for m, name in enumerate(names)
            if name in retention(out, shipped)
        }
    found = statistics.compare_rows(values, [row.name for row in rows], names, seed)
    return {"comparisons": found, "retention_intervals": kept}


def _worst(
    texts: Texts,
    relevant: dict[str, list[str]],
    queries: list[Query],
    rows: list[Row],
    singles: list[PerQuery],
    out: list[dict[str, Any]],
    metric: str,
    shipped: str,
) -> list[dict[str, Any]]:
    pair = retention_pair(out, shipped)
    if pair is None:
        return []
    both = {name: singles[at] for name, at in zip((shipped, TEACHER), pair, strict=True)}
    return worst_queries(texts, relevant, queries, rows, both, metric)


def _stages(workdir: Workdir) -> dict[str, Path]:
    return {"train": workdir.teacher, "distill": workdir.student, "refine": workdir.refined}


def _metrics_row(
    row: Row, means: dict[str, float], queries: int, cutoffs: Sequence[int]
) -> dict[str, Any]:
    empty: dict[str, Any] = {
        "query_tower": None,
        "doc_tower": None,
        **{f"ann_recall@{k}": None for k in cutoffs},
        "query_ms_p50": None,
        "query_ms_p99": None,
        "params_non_embedding": None,
    }
    head = {"system": row.system, "search": row.search, "queries": queries, "metrics": means}
    return head | empty | row.facts


def by_entities(
    out: list[dict[str, Any]],
    singles: list[PerQuery],
    seen: dict[str, bool],
    names: Sequence[str],
    seed: int,
    shipped: str,
) -> dict[str, Any]:
    """What the student keeps for queries about entities that training has seen ("seen") and for
    those about others ("unseen"), for those groups that there are: each {"queries", "student",
    "teacher", "retention", "retention_intervals"}.

    Args:
        out: rows as `metrics.json` has them; `singles`: of the same rows.
        seen: query id → whether its entity was.
    """
    pair = retention_pair(out, shipped)
    if pair is None:
        return {}
    groups: dict[str, Any] = {}
    for name, wanted in (("seen", True), ("unseen", False)):
        chosen = [qid for qid in singles[0] if seen.get(qid, False) is wanted]
        if not chosen:
            continue
        values = np.array([[[singles[at][q][n] for n in names] for q in chosen] for at in pair])
        student, teacher = (dict(zip(names, x.mean(axis=0).tolist(), strict=True)) for x in values)
        means = statistics.resampled_means(values, seed)
        kept = {n: student[n] / teacher[n] for n in names if teacher[n] > 0}
        spread = {
            n: statistics.ratio_interval(means[:, 0, m], means[:, 1, m])
            for m, n in enumerate(names)
            if n in kept
        }
        groups[name] = {"queries": len(chosen), "student": student, "teacher": teacher}
        groups[name] |= {"retention": kept, "retention_intervals": spread}
    return groups


def retention_pair(rows: list[dict[str, Any]], shipped: str) -> tuple[int, int] | None:
    """Places of the row of the shipped student (the refined one, where there is a stage 3) and of
    the teacher's, both of the same search: the index's if both are there.
    """
    if not is_student(shipped):
        return None
    for search in ("scann", "milvus", "exact"):
        found = {r["system"]: at for at, r in enumerate(rows) if r["search"] == search}
        if shipped in found and TEACHER in found:
            return found[shipped], found[TEACHER]
    return None


def retention(rows: list[dict[str, Any]], shipped: str) -> dict[str, float]:
    """Shipped student / teacher for each metric, both from the same search; {} unless both are
    there.
    """
    pair = retention_pair(rows, shipped)
    if pair is None:
        return {}
    student, teacher = (rows[at]["metrics"] for at in pair)
    return {name: value / teacher[name] for name, value in student.items() if teacher[name] > 0}


def _index(workdir: Workdir) -> dict[str, Any]:
    """What the index says of itself; {} where none was built."""
    if not workdir.index.is_dir():
        return {}
    return index_facts(workdir.index)
