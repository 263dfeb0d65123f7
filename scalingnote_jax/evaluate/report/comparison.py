"""Writes `compare.html`: several workdirs in the look of the report. The numbers come from
`evaluate/compare.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalingnote_jax.evaluate.report import crossed, tables
from scalingnote_jax.evaluate.report.page import this_command, today, write_page
from scalingnote_jax.evaluate.report.sections import Section
from scalingnote_jax.evaluate.report.words import counted, system_name


def write_comparison(
    path: str | Path, found: Mapping[str, Any], command: str | None = None
) -> None:
    """Writes the page, as a whole or not at all.

    Args:
        path: the .html file.
        found: what `compare.json` holds.
        command: the command line that made it; by default that of this process.
    """
    metric, rows = str(found["metric"]), list(found["collections"])
    names = dict.fromkeys(str(row["tested_on"]) for row in rows)
    counts = [counted(len(found["workdirs"]), "workdir"), counted(len(names), "collection")]
    origin = {
        "command": command or this_command(),
        "config": json.dumps(found["workdirs"], indent=2, ensure_ascii=False),
        "title": "Workdirs",
    }
    matrices, differences = crossed.of_several(rows, metric), _differences(found)
    every = [
        Section("Collections", "Trained on × tested on", "matrices.html", matrices),
        Section("Differences", "Which differences are real", "differences.html", differences),
        Section("Origin", "How it was made", "origin.html", origin),
    ]
    write_page(
        path,
        name="Comparison",
        meta=" · ".join([metric, *counts, today()]),
        lead=lead(rows, metric),
        facts=[],
        sections=[section for section in every if section.data],
    )


def lead(rows: list[dict[str, Any]], metric: str) -> str:
    """Who is best on each collection."""
    parts = []
    for name in dict.fromkeys(str(row["tested_on"]) for row in rows):
        best = max(
            (row for row in rows if row["tested_on"] == name),
            key=lambda row: row["metrics"][metric],
        )
        trained_on = f" trained on {best['trained_on']}" if best["trained_on"] else ""
        who = f"{system_name(str(best['system']))}{trained_on}"
        parts.append(f"{name} {best['metrics'][metric]:.3f} ({who})")
    return f"The best {metric}: {', '.join(parts)}."


def _differences(found: Mapping[str, Any]) -> list[tables.Table]:
    """A table for each collection."""
    pairs, metric = found["comparisons"], found["metric"]
    return [
        tables.comparisons(
            f"Differences in {metric} on {name}",
            [c for c in pairs if c["collection"] == name],
            _row_name,
        )
        for name in dict.fromkeys(str(c["collection"]) for c in pairs)
    ]


def _row_name(row: str) -> str:
    """ "runs/a: student" → "Student of runs/a"."""
    workdir, _, system = row.rpartition(": ")
    return f"{system_name(system)} of {workdir}"
