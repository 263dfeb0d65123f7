"""Tables of several collections, trained on × tested on: of one run for its report, of several for
their comparison. Drawn by `matrices.html`; the numbers come from `evaluate/cross_domain.py` and
`evaluate/compare.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from scalingnote_jax.evaluate.report.tables import Cell, Line, Table, mark_best
from scalingnote_jax.evaluate.report.words import NONE, fixed, number, percent, span, system_name

Found = Mapping[str, Any]  # a row of "collections" in metrics.json
Head = Callable[[Found], Cell]


class Crossed(NamedTuple):
    """Tables that are shown, those that are folded, what the student keeps, and a note."""

    shown: list[Table]
    folded: list[Table]
    kept: Table | None
    note: str


def of_a_run(found: Sequence[Found]) -> Crossed | None:
    """For each metric a table of systems × collections, all but the first folded; None without
    collections.
    """
    metrics = list(dict.fromkeys(name for row in found for name in row["metrics"]))
    tables = [matrix(metric, "System", found, metric, _system) for metric in metrics]
    if not tables:
        return None
    kept = [cell for m in metrics for cell in _kept(found, m, partial(_metric_of, m))]
    return Crossed(tables[:1], tables[1:], _cross("Student / teacher", "Metric", kept), note(found))


def of_several(found: Sequence[Found], metric: str) -> Crossed:
    """For each system a table of trained on × tested on, all by one metric.

    Args:
        found: rows that also have their "workdir".
    """
    systems = dict.fromkeys(str(row["system"]) for row in found)
    tables = [
        matrix(
            f"{metric}: {system_name(system)}",
            "Trained on",
            [row for row in found if row["system"] == system],
            metric,
            _trained_on,
        )
        for system in systems
    ]
    title = f"{metric}: student / teacher"
    kept = _cross(title, "Trained on", _kept(found, metric, _trained_on))
    return Crossed(tables, [], kept, note(found))


def matrix(caption: str, first: str, found: Sequence[Found], metric: str, head: Head) -> Table:
    """One metric: a column for each collection that was tested on, the best of it in bold.

    Args:
        first: the heading of the first column.
        head: what the line of a row is called.
    """
    table = _cross(caption, first, [(head(row), row, _value(row, metric)) for row in found])
    assert table is not None, "somebody asked for a table of nothing"
    for place in range(len(table.columns) - 1):
        mark_best([line.cells[place] for line in table.lines], less=False)
    return table


def note(found: Sequence[Found]) -> str:
    """How to read them, and how many queries each mean is over."""
    queries = {str(row["tested_on"]): row["queries"] for row in found if row.get("queries")}
    text = (
        "Columns: tested on, with every document of that collection scored. "
        "Underlined: the collection that it was trained on. Bold: best of the column. "
    )
    if any(row.get("intervals") for row in found):
        text += "Below a value: its 95\u00a0% interval. "
    counts = ", ".join(f"{name} {count:,}" for name, count in queries.items())
    return text + (f"Judged queries: {counts}." if counts else "")


def _system(row: Found) -> Cell:
    trained_on = row.get("trained_on")
    return Cell(system_name(str(row["system"])), f"trained on {trained_on}" if trained_on else "")


def _metric_of(metric: str, row: Found) -> Cell:
    return Cell(metric, "" if row["system"] == "student" else system_name(str(row["system"])))


def _trained_on(row: Found) -> Cell:
    """What was not trained is the same in all workdirs."""
    trained_on = row.get("trained_on")
    return Cell(str(trained_on), str(row["workdir"])) if trained_on else Cell(NONE)


def _value(row: Found, metric: str) -> Cell:
    value = row["metrics"].get(metric)
    interval = span((row.get("intervals") or {}).get(metric))
    return Cell(fixed(value), interval, number(value), own=_own(row))


def _kept(found: Iterable[Found], metric: str, head: Head) -> list[tuple[Cell, Found, Cell]]:
    """What students keep of their teachers."""
    cells = []
    for row in found:
        value = number((row.get("retention") or {}).get(metric))
        if value is not None:
            interval = (row.get("retention_intervals") or {}).get(metric)
            detail = span(interval, scale=100, decimals=1)
            cells.append((head(row), row, Cell(percent(value), detail, value, own=_own(row))))
    return cells


def _own(row: Found) -> bool:
    return row.get("trained_on") == row["tested_on"]


def _cross(caption: str, first: str, cells: Sequence[tuple[Cell, Found, Cell]]) -> Table | None:
    """A line for each different head; None without a cell."""
    tested = list(dict.fromkeys(str(row["tested_on"]) for _, row, _ in cells))
    lines: dict[tuple[str, str], Line] = {}
    for head, row, cell in cells:
        line = Line(head, [Cell() for _ in tested])
        line = lines.setdefault((head.shown, head.detail), line)
        line.cells[tested.index(str(row["tested_on"]))] = cell
    return Table(caption, [first, *tested], list(lines.values())) if lines else None
