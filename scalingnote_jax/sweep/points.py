"""The numbers of a sweep: for each axis, value and system a metric's mean over cells and queries,
with its 95 % interval. Read from what the cells' evaluations left; computes no metric.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from scalingnote_jax.evaluate.report.words import first_row
from scalingnote_jax.evaluate.statistics import interval, resampled_over_runs
from scalingnote_jax.sweep.cells import on_axis, word
from scalingnote_jax.sweep.run_cells import CellRun
from scalingnote_jax.sweep.spec import Sweep

PerQuery = dict[str, float]
_OTHERS = ("bm25", "untrained")  # no field of a sweep is about them


def summary(sweep: Sweep, cell_runs: list[CellRun], root: Path) -> dict[str, Any]:
    """What `sweep.json` holds.

    Args:
        root: the sweep's folder, to which the cells' are relative.
    """
    done = {each.cell.name: read_cell(each.folder) for each in cell_runs if each.status == "done"}
    return {
        "name": sweep.config.name,
        "mode": sweep.mode,
        "seeds": list(sweep.seeds),
        "metrics": list(sweep.config.eval.metrics),
        "axes": {field: [word(v) for v in values] for field, values in sweep.axes.items()},
        "cells": [_cell(each, root, done.get(each.cell.name, {})) for each in cell_runs],
        "points": _points(sweep, cell_runs, done),
    }


def _cell(run: CellRun, root: Path, rows: dict[str, dict[str, PerQuery]]) -> dict[str, Any]:
    means = {
        system: {metric: float(np.mean(list(v.values()))) for metric, v in metrics.items()}
        for system, metrics in rows.items()
    }
    return {
        "name": run.cell.name,
        "folder": str(run.folder.relative_to(root)),
        "values": {field: word(value) for field, value in run.cell.values.items()},
        "seed": run.cell.seed,
        "command": shlex.join(["scalingnote", *run.words]),
        "status": run.status,
        "error": run.error,
        "metrics": means,
    }


def read_cell(folder: Path) -> dict[str, dict[str, PerQuery]]:
    """System → metric → query → value, of the search that ships."""
    metrics = json.loads((folder / "eval" / "metrics.json").read_text())
    rows = metrics["rows"]
    systems = dict.fromkeys(row["system"] for row in rows if row["system"] not in _OTHERS)
    searches = {system: (first_row(rows, system) or {})["search"] for system in systems}
    found: dict[str, dict[str, PerQuery]] = {system: {} for system in systems}
    with (folder / "eval" / "per_query.jsonl").open() as lines:
        for line in map(json.loads, lines):
            system, search, query = (line.pop(key) for key in ("system", "search", "query"))
            if searches.get(system) == search:
                for metric, value in line.items():
                    found[system].setdefault(metric, {})[query] = value
    return found


def _points(
    sweep: Sweep, cell_runs: list[CellRun], done: dict[str, dict[str, dict[str, PerQuery]]]
) -> list[dict[str, Any]]:
    points = []
    for field, values in sweep.axes.items():
        for value in values:
            cells = [
                done[each.cell.name]
                for each in cell_runs
                if each.cell.name in done
                and each.cell.values[field] == value
                and on_axis(sweep, each.cell, field)
            ]
            for system in dict.fromkeys(name for cell in cells for name in cell):
                for metric in sweep.config.eval.metrics:
                    runs = [cell[system][metric] for cell in cells if system in cell]
                    head = {"axis": field, "value": word(value), "system": system}
                    points.append(head | {"metric": metric} | mean_of(runs, sweep.config.seed))
    return points


def mean_of(runs: list[PerQuery], seed: int) -> dict[str, Any]:
    """Of runs that have the same queries, also how sure it is."""
    mean = float(np.mean([np.mean(list(run.values())) for run in runs]))
    out: dict[str, Any] = {"mean": mean, "runs": len(runs), "interval": None}
    queries = sorted(runs[0])
    if all(sorted(run) == queries for run in runs):
        values = np.array([[run[query] for query in queries] for run in runs])
        out["interval"] = interval(resampled_over_runs(values, seed))
    return out
