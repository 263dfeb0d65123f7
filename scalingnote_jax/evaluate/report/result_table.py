"""The table that `run` and `eval` print at their end, from what the evaluation wrote."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from scalingnote_jax.errors import printable
from scalingnote_jax.evaluate.report.compare_table import matrix_table
from scalingnote_jax.evaluate.report.words import ann_cutoffs, first_row
from scalingnote_jax.systems import TEACHER, WORDS
from scalingnote_jax.workflow.workdir import Workdir


def print_table(workdir: Workdir) -> None:
    """Prints the rows of a finished evaluation, what the student keeps of its teacher, and the
    place of the report.
    """
    metrics = json.loads((workdir.eval / "metrics.json").read_text())
    rows = metrics["rows"]
    names = list(rows[0]["metrics"])
    cutoffs = ann_cutoffs(rows)
    found = f"ANN recall@{'/'.join(map(str, cutoffs))}"
    title = Text(printable(metrics["dataset"]))
    table = Table("system", "search", *names, found, "p50 ms", "params M", title=title)
    for row in rows:
        numbers = [f"{row['metrics'][name]:.3f}" for name in names]
        low, high = row["intervals"][names[0]]
        numbers[0] += f" ± {(high - low) / 2:.3f}"
        recalls = [_or_dash(row[f"ann_recall@{k}"], "{:.3f}") for k in cutoffs]
        shown = "–" if set(recalls) == {"–"} else "/".join(recalls)
        rest = [shown, _or_dash(row["query_ms_p50"], "{:.2f}")]
        params = row["params_non_embedding"]
        table.add_row(
            Text(printable(row["system"])),
            row["search"],
            *numbers,
            *rest,
            _or_dash(params and params / 1e6, "{:.1f}"),
        )
    out = Console(width=None if sys.stdout.isatty() else 140)
    out.print(table)
    if metrics.get("collections"):
        out.print(matrix_table(metrics["collections"], names[0]))
    if metrics["retention"]:
        kept = ", ".join(f"{name} {value:.1%}" for name, value in metrics["retention"].items())
        out.print(f"{metrics['shipped']} / teacher: {kept}", markup=False)
    for group, found in metrics.get("entities", {}).items():
        kept = ", ".join(f"{name} {value:.1%}" for name, value in found["retention"].items())
        out.print(f"  {group} entities ({found['queries']} queries): {kept}", markup=False)
    for alarm in metrics.get("alarms", ()):
        out.print(f"alarm, the student: {alarm}", soft_wrap=True, markup=False)
    for line in _compared(metrics, names[0]):
        out.print(printable(line), soft_wrap=True, markup=False)
    if any(row["query_ms_p50"] is not None for row in rows):
        out.print(f"times of a query: {metrics['latency_device']}", soft_wrap=True, markup=False)
    if "agreement" in metrics:
        out.print(f"Overlap@k: {metrics['agreement']}", soft_wrap=True, markup=False)
    else:
        out.print(f"report: {workdir.report}", soft_wrap=True, markup=False)


def _compared(metrics: dict[str, Any], metric: str) -> list[str]:
    """What ships against the teacher and bm25, a line each; by the index where both have one."""
    rows, shipped = metrics["rows"], metrics["shipped"]
    ours, others = first_row(rows, shipped), [first_row(rows, s) for s in (TEACHER, WORDS)]
    shown = [(_name(ours), _name(row)) for row in others if ours and row and row is not ours]
    lines = []
    for found in metrics.get("comparisons", ()):
        pair, sign = (found["a"], found["b"]), 1
        if pair[::-1] in shown:
            pair, sign = pair[::-1], -1
        if found["metric"] == metric and pair in shown:
            sure = "significant" if found["p_holm"] < 0.05 else "not significant"
            lines.append(
                f"{pair[0]} − {pair[1]}: {metric} {sign * found['difference']:+.3f}, "
                f"{sure} (p {found['p_holm']:.2g} after Holm)"
            )
    return lines


def _name(row: dict[str, Any]) -> str:
    return f"{row['system']}/{row['search']}"


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
