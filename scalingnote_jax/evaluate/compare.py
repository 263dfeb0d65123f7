"""Finished workdirs side by side: trained on × tested on by one metric, and which differences
between them are real.

Values are put beside each other only where they are of the same queries over the same documents
and judgements; that is checked, not assumed. Reads what `eval` wrote and computes no metric. Words
and pictures: `compare_command.py`, `report/comparison.py`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scalingnote_jax.errors import bad_input
from scalingnote_jax.evaluate.cross_domain import SEARCHES
from scalingnote_jax.evaluate.statistics import holm, sign_flips
from scalingnote_jax.files.guard import reading
from scalingnote_jax.hashing import file_hash
from scalingnote_jax.systems import TEACHER, is_elsewhere, is_lexical, is_student
from scalingnote_jax.workflow.workdir import Workdir, output_of

SEED = 0
COUNTED = {"relevant_from": 1, "leave_out_own_id": False}  # and the defaults of older evaluations
AGREE = 1e-9  # means that differ by less are equal
AGAIN = "run `scalingnote eval` there again"


@dataclass
class Finished:
    """What the evaluation of one workdir says of one metric.

    Attributes:
        name: the workdir as it was given.
        own: fingerprint of the collection that it was trained on.
        rows: as "collections" in `metrics.json`; for a workdir that was tested on its own
            collection only, the rows of that.
        counted: the options of the evaluation that decide what counts (`COUNTED`).
        values: (collection, system) → query id → the metric.
    """

    name: str
    own: str
    rows: list[dict[str, Any]]
    counted: dict[str, Any] = field(default_factory=dict)
    values: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)


def compare(workdirs: Sequence[str], metric: str) -> dict[str, Any]:
    """Reads the workdirs, checks that they can be compared, and does so.

    Returns:
        what `compare.json` holds: {"metric", "workdirs", "collections": rows as in `metrics.json`
        with their "workdir" and this metric alone, "comparisons": of each pair of rows of different
        workdirs on one collection {"collection", "a", "b", "metric", "difference", "p", "p_holm"}}.
        Holm's family is the pairs of one collection.

    Raises:
        UserError: a workdir is not evaluated, or not with this metric; collections, queries or
            BM25's values that should be the same are not; a workdir shares no collection.
    """
    found = [read(workdir, metric) for workdir in workdirs]
    names = collection_names(found)
    _check_queries(found, metric)
    _check_shared(found)
    comparisons = []
    for fingerprint, name in names.items():
        comparisons += [{"collection": name, **c} for c in _paired(found, fingerprint, metric)]
    return {
        "metric": metric,
        "workdirs": [{"workdir": one.name, "trained_on": names[one.own]} for one in found],
        "collections": [_row(one, row, names, metric) for one in found for row in one.rows],
        "comparisons": comparisons,
    }


def read(folder: str, metric: str) -> Finished:
    """
    Raises:
        UserError: it is no workdir whose evaluation is finished and whole, or lacks the metric.
    """
    with reading(Path(folder), "what `eval` left", AGAIN):
        return _read(folder, metric)


def _read(folder: str, metric: str) -> Finished:
    workdir = Workdir(folder)
    path = workdir.eval / "metrics.json"
    written = output_of(workdir.eval, "eval")
    if not path.is_file() or file_hash(path) != written:
        raise bad_input(str(path), "not as it was written", "what `eval` left", AGAIN)
    metrics = json.loads(path.read_text())
    if "fingerprint" not in metrics:
        given = "an evaluation by an older version, which does not say of which data it is"
        raise bad_input(str(path), given, "one that does", AGAIN)
    crossed = "collections" in metrics
    rows: dict[tuple[str, str], Any] = {}  # a collection with two names counts once
    for row in metrics["collections"] if crossed else _own_rows(metrics):
        rows.setdefault((row["fingerprint"], row["system"]), row)
    counted = {name: metrics.get(name, default) for name, default in COUNTED.items()}
    found = Finished(folder, metrics["fingerprint"], list(rows.values()), counted)
    if not found.rows:
        given, fix = "no row of a system that is compared", f"add one to --eval.systems and {AGAIN}"
        raise bad_input(str(path), given, "bm25 or a trained system", fix)
    for row in found.rows:
        if metric not in row["metrics"]:
            known = ", ".join(row["metrics"])
            fix = f"choose another, or add it to --eval.metrics and {AGAIN}"
            raise bad_input("--metric", f"{metric!r}", f"what {folder} has: {known}", fix)
    lines = workdir.eval / ("collections.jsonl" if crossed else "per_query.jsonl")
    _read_values(found, lines, metrics["dataset"], metric)
    return found


def _own_rows(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the own collection in the form of "collections", each system once."""
    head = {"tested_on": metrics["dataset"], "fingerprint": metrics["fingerprint"]}
    fields = ("system", "queries", "metrics", "intervals")
    return [
        {"trained_on": None if is_lexical(row["system"]) else metrics["dataset"], **head}
        | {name: row[name] for name in fields if name in row}
        for row in metrics["rows"]
        if row["search"] in SEARCHES and is_elsewhere(row["system"])
    ]


def _read_values(found: Finished, path: Path, dataset: str, metric: str) -> None:
    """Adds what each query has, and checks that its mean is the row's."""
    try:
        with path.open() as file:
            for line in map(json.loads, file):
                if line.get("search", SEARCHES[0]) in SEARCHES:
                    key = (line.get("collection", dataset), line["system"])
                    found.values.setdefault(key, {})[line["query"]] = line[metric]
    except (OSError, ValueError, KeyError) as e:
        raise bad_input(str(path), f"cannot be read ({e})", "what `eval` left", AGAIN) from e
    for row in found.rows:
        values = list(found.values.get((row["tested_on"], row["system"]), {}).values())
        if len(values) != row["queries"] or abs(np.mean(values) - row["metrics"][metric]) > AGREE:
            given = f"{len(values)} queries of {row['system']} on {row['tested_on']}"
            expected = f"{row['queries']}, with the mean that metrics.json says"
            raise bad_input(str(path), given, expected, AGAIN)


def collection_names(found: Sequence[Finished]) -> dict[str, str]:
    """Fingerprint → name of all collections; the name is the first that one has.

    Raises:
        UserError: two different collections have the same name.
    """
    names, owners = dict[str, str](), dict[str, tuple[str, str]]()
    for one in found:
        for row in one.rows:
            name, fingerprint = row["tested_on"], row["fingerprint"]
            known, owner = owners.setdefault(name, (fingerprint, one.name))
            if known != fingerprint:
                given = f"its collection {name!r} is not the one that {owner} has by this name"
                expected = "the same documents, queries and judgements"
                fix = "evaluate both on one folder, or rename one: --eval.collections=NAME=path"
                raise bad_input(one.name, given, expected, fix)
            names.setdefault(fingerprint, name)
    return names


def _check_queries(found: Sequence[Finished], metric: str) -> None:
    """Of the same collection the same queries, and the same values where nothing was trained."""
    first: dict[str, tuple[Finished, set[str]]] = {}
    bm25: dict[str, float] = {}
    for one in found:
        for option, value in one.counted.items():
            if value != found[0].counted[option]:
                expected = f"{found[0].counted[option]}, as in {found[0].name}"
                fix = f"evaluate both with the same --eval.{option}"
                raise bad_input(one.name, f"evaluated with {option} = {value}", expected, fix)
        for row in one.rows:
            fingerprint, name = row["fingerprint"], row["tested_on"]
            queries = set(one.values[name, row["system"]])
            other, known = first.setdefault(fingerprint, (one, queries))
            if queries != known:
                given = f"{len(queries)} queries on {name}, not the {len(known)} of {other.name}"
                fix = "evaluate both with the same --eval.split"
                raise bad_input(one.name, given, "the same queries", fix)
            if is_lexical(row["system"]):
                value = row["metrics"][metric]
                before = bm25.setdefault(fingerprint, value)
                if abs(value - before) > AGREE:
                    given = f"BM25's {metric} on {name} is {value:.4f}, not {before:.4f} as before"
                    fix = "evaluate all with one version and the same --eval.depth and split"
                    raise bad_input(one.name, given, "the same test for all", fix)


def _check_shared(found: Sequence[Finished]) -> None:
    """Each workdir must have a collection that another one has, too."""
    for one in found:
        own = {row["fingerprint"] for row in one.rows}
        rest = {row["fingerprint"] for other in found if other is not one for row in other.rows}
        if not own & rest:
            given = "it was tested on no collection that another of them was tested on"
            fix = "evaluate it with --eval.collections=… of theirs"
            raise bad_input(one.name, given, "one in common", fix)


def _row(one: Finished, row: dict[str, Any], names: dict[str, str], metric: str) -> dict[str, Any]:
    """A row with the names that are used for all, and one metric."""
    out = {
        "workdir": one.name,
        "trained_on": row["trained_on"] and names[one.own],
        "tested_on": names[row["fingerprint"]],
        "system": row["system"],
        "queries": row["queries"],
        "metrics": {metric: row["metrics"][metric]},
    }
    kept = _retention(one, row, metric)
    if kept is not None:
        out["retention"] = {metric: kept}
    for field_name in ("intervals", "retention_intervals"):
        if metric in row.get(field_name, {}):
            out[field_name] = {metric: row[field_name][metric]}
    return out


def _retention(one: Finished, row: dict[str, Any], metric: str) -> float | None:
    """Student / teacher; None for other systems, without a teacher, or with one at 0."""
    if not is_student(row["system"]):
        return None
    key = (TEACHER, row["fingerprint"])
    teacher = {(r["system"], r["fingerprint"]): r["metrics"][metric] for r in one.rows}.get(key)
    return row["metrics"][metric] / teacher if teacher else None


def _paired(found: Sequence[Finished], fingerprint: str, metric: str) -> list[dict[str, Any]]:
    """Every row on one collection against those of the workdirs after it; BM25 is the same in all
    and has its comparisons in each workdir's own report.
    """
    rows = [
        (one.name, row["system"], one.values[row["tested_on"], row["system"]])
        for one in found
        for row in one.rows
        if row["fingerprint"] == fingerprint and not is_lexical(row["system"])
    ]
    pairs = [
        (a, b) for a, b in itertools.combinations(range(len(rows)), 2) if rows[a][0] != rows[b][0]
    ]
    if not pairs:
        return []
    queries = list(rows[0][2])
    values = np.array([[of_query[q] for q in queries] for _, _, of_query in rows])
    means, p = values.mean(axis=1), sign_flips(values[:, :, None], SEED)[:, :, 0]
    corrected = holm([float(p[a, b]) for a, b in pairs])
    return [
        {
            "a": f"{rows[a][0]}: {rows[a][1]}",
            "b": f"{rows[b][0]}: {rows[b][1]}",
            "metric": metric,
            "difference": float(means[a] - means[b]),
            "p": float(p[a, b]),
            "p_holm": p_holm,
        }
        for (a, b), p_holm in zip(pairs, corrected, strict=True)
    ]
