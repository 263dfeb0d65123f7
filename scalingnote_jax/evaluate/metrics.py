"""Retrieval metrics of a run, all from `ir_measures`; the run and its judgements as TREC files.

A run is query id → [(document id, score)]; qrels are query id → document id → grade, where > 0 is
relevant. The order of a run counts: equal scores keep their order in the list, whatever a tool
downstream does with ties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import ir_measures
import numpy as np
from ir_measures import AP, RR, P, R, Success, nDCG

from scalingnote_jax.config.forms.metric_names import FORMS, parse
from scalingnote_jax.errors import bad_input

Run = Mapping[str, Sequence[tuple[str, float]]]
Qrels = Mapping[str, Mapping[str, int]]

MEASURES = {"Recall": R, "nDCG": nDCG, "MRR": RR, "Success": Success, "P": P, "MAP": AP}


def evaluate_run(
    qrels: Qrels, run: Run, names: Sequence[str], relevant_from: int = 1
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Metrics of a run, on average and for each query.

    Counted are all queries that have a relevant document: one that the run lacks, or for which it
    found nothing, scores 0. Queries without a relevant document and those without a judgement
    change nothing. nDCG uses the grades, with gain = grade. The arguments stay as they are.

    Args:
        qrels: the judgements.
        run: ranked documents, best first.
        names: "Recall@10", "nDCG@10", "MRR@10", "Success@10", "P@10", "MAP@10", with any cutoff;
            "MAP" for that of the whole run.
        relevant_from: the least grade of a relevant document; nDCG takes grades as they are.

    Returns:
        name → mean (0 when no query counts), and query id → name → value in the order of the qrels.

    Raises:
        UserError: a name that is not a metric.
    """
    measures = {parse_metric(name, relevant_from): name for name in names}
    judged = {
        qid: dict(docs)
        for qid, docs in qrels.items()
        if any(grade >= relevant_from for grade in docs.values())
    }
    ranked = {qid: dict(strict_scores(run[qid])) for qid in judged if run.get(qid)}
    per_query = {qid: dict.fromkeys(names, 0.0) for qid in judged}
    if ranked:
        for metric in ir_measures.iter_calc(list(measures), judged, ranked):
            per_query[metric.query_id][measures[metric.measure]] = float(metric.value)
    means = {
        name: float(np.mean([values[name] for values in per_query.values()])) if per_query else 0.0
        for name in names
    }
    return means, per_query


def parse_metric(name: str, relevant_from: int = 1) -> ir_measures.Measure:
    """The measure behind a name such as "Recall@10".

    Args:
        relevant_from: as for `evaluate_run`.

    Raises:
        UserError: it is none of ours; the message lists them.
    """
    found = parse(name)
    if found is None:
        raise bad_input("--eval.metrics", repr(name), FORMS, "write for example Recall@10")
    kind, cutoff = found
    measure = MEASURES[kind]
    if kind != "nDCG" and relevant_from > 1:
        measure = measure(rel=relevant_from)
    return measure @ cutoff if cutoff else measure


def without_own(run: Run, depth: int) -> dict[str, list[tuple[str, float]]]:
    """The first `depth` documents of each query but the one that has the query's own id."""
    return {
        qid: [(doc, score) for doc, score in found if doc != qid][:depth]
        for qid, found in run.items()
    }


def cutoff_of(name: str) -> int:
    """The rank down to which a metric looks; 0 for all of the run.

    Raises:
        UserError: the name is not a metric.
    """
    parse_metric(name)
    return int(name.partition("@")[2] or 0)


def strict_scores(results: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """The results, best first, with scores that fall strictly.

    Equal ones are lowered by the smallest float32 step, because trec_eval reads scores as float32
    and orders equal ones by document id.

    Raises:
        ValueError: a score that is not a number, or a document twice.
    """
    if any(np.isnan(score) for _, score in results):
        raise ValueError("a score is NaN")
    if len({doc for doc, _ in results}) != len(results):
        raise ValueError("a document occurs twice in the results of one query")
    strict: list[tuple[str, float]] = []
    below = np.float32(np.inf)
    for doc, score in sorted(results, key=lambda result: -result[1]):  # stable
        below = min(np.float32(score), np.nextafter(below, np.float32(-np.inf)))
        strict.append((doc, float(below)))
    return strict


def write_trec(path: str | Path, run: Run, tag: str) -> None:
    """Writes a run in the six columns of TREC: query, Q0, document, rank from 1, score, tag.

    Scores fall strictly within a query, so that trec_eval sees the order of the run.

    Raises:
        UserError: an id or the tag is empty or holds white space, which would shift the columns.
    """
    lines = []
    for qid, results in run.items():
        for rank, (doc, score) in enumerate(strict_scores(results), start=1):
            _check_ids(path, qid, doc, tag)
            lines.append(f"{qid} Q0 {doc} {rank} {score:.9g} {tag}\n")  # 9 digits: any float32
    _write_lines(Path(path), lines)


def write_qrels(path: str | Path, qrels: Qrels) -> None:
    """Writes judgements in the four columns of TREC: query, 0, document, grade.

    Raises:
        UserError: an id is empty or holds white space.
    """
    lines = []
    for qid, grades in qrels.items():
        for doc, grade in grades.items():
            _check_ids(path, qid, doc)
            lines.append(f"{qid} 0 {doc} {grade}\n")
    _write_lines(Path(path), lines)


def _check_ids(path: str | Path, *names: str) -> None:
    for name in names:
        if len(name.split()) != 1:
            raise bad_input(str(path), f"the id {name!r}", "ids without spaces", "rename it")


def _write_lines(path: Path, lines: list[str]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(lines), encoding="utf-8")
    partial.replace(path)
