"""`sweep.html`: for each axis a picture and a table, then every cell with its command; one file
that loads nothing, in the look of the report. The numbers come from `points.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup
from matplotlib.axes import Axes

from scalingnote_jax.evaluate.report.page import this_command, today, write_page
from scalingnote_jax.evaluate.report.sections import Section
from scalingnote_jax.evaluate.report.svg import Look, looks, picture, sample
from scalingnote_jax.evaluate.report.tables import Cell, Line, Table, mark_best
from scalingnote_jax.evaluate.report.words import counted, fixed, span, system_name

Points = Sequence[Mapping[str, Any]]
_APART = 0.08  # between the systems' points at one value, so that no interval hides another


class Axis(NamedTuple):
    """What `axis.html` draws."""

    caption: str
    svg: Markup
    legend: list[tuple[Markup, str]]
    table: Table
    note: str


def write_sweep(path: Path, found: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Writes the page, as a whole or not at all.

    Args:
        found: what `sweep.json` holds.
        config: the sweep's config as plain values.
    """
    cells = found["cells"]
    counts = {s: sum(c["status"] == s for c in cells) for s in ("done", "failed", "waiting")}
    said = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    origin = {
        "command": this_command(),
        "config": json.dumps(config, indent=2, ensure_ascii=False),
        "title": "Where every other field stands",
    }
    every = [
        *(_axis(found, field) for field in found["axes"]),
        Section("Cells", "Every cell", "axis.html", _cells(cells)),
        Section("Origin", "How it was made", "origin.html", origin),
    ]
    write_page(
        path,
        name=f"Sweep of {found['name']}",
        meta=f"{counted(len(found['axes']), 'field')} · {found['mode']} · "
        f"{counted(len(found['seeds']), 'seed')} · {today()}",
        lead=f"{counted(len(cells), 'cell')}: {said}.",
        facts=[],
        sections=every,
    )


def _axis(found: Mapping[str, Any], field: str) -> Section:
    points = [p for p in found["points"] if p["axis"] == field]
    metric = found["metrics"][0]
    styles = looks(str(p["system"]) for p in points)
    drawn = [p for p in points if p["metric"] == metric]
    svg = _picture(f"{metric} against {field}", drawn, found["axes"][field], styles)
    others = "as in the config" if found["mode"] == "one at a time" else "averaged over"
    data = Axis(
        caption=f"{metric} against {field}",
        svg=Markup(svg),
        legend=[(Markup(sample(look)), system_name(name)) for name, look in styles.items()],
        table=_table(field, points, found["metrics"]),
        note=f"Means over runs and queries with their 95 % bootstrap intervals, in which both are "
        f"drawn; the other axes are {others}.",
    )
    return Section(field, field, "axis.html", data)


def _picture(title: str, points: Points, values: Sequence[str], styles: Mapping[str, Look]) -> str:
    """A line for each system; values stand at equal distances, in the sweep's order."""
    if not points:
        return ""

    def paint(axes: Axes) -> None:
        for number, (system, look) in enumerate(styles.items()):
            shift = (number - (len(styles) - 1) / 2) * _APART
            own = [p for p in points if p["system"] == system]
            places = [values.index(p["value"]) + shift for p in own]
            line: dict[str, Any] = {"color": look.colour, "linestyle": look.dash}
            means = [p["mean"] for p in own]
            axes.plot(places, means, linewidth=1.8, marker=look.marker, markersize=5, **line)
            for place, p in zip(places, own, strict=True):
                if p["interval"]:
                    axes.plot([place, place], p["interval"], color=look.colour, linewidth=1.2)
        axes.set_xticks(range(len(values)), values)

    said = [f"{system_name(p['system'])} {fixed(p['mean'])} at {p['value']}" for p in points]
    return picture(f"{title}: {'; '.join(said)}", paint)


def _table(field: str, points: Points, metrics: Sequence[str]) -> Table:
    lines = []
    for value, system in dict.fromkeys((p["value"], p["system"]) for p in points):
        own = {p["metric"]: p for p in points if (p["value"], p["system"]) == (value, system)}
        first = own[metrics[0]]
        cells = [Cell(system_name(system)), Cell(str(first["runs"]), value=first["runs"])]
        cells += [Cell(fixed(p["mean"]), span(p["interval"]), p["mean"]) for p in own.values()]
        lines.append(Line(Cell(value), cells))
    for system in dict.fromkeys(p["system"] for p in points):
        same = [line for line in lines if line.cells[0].shown == system_name(system)]
        for place in range(2, 2 + len(metrics)):
            mark_best([line.cells[place] for line in same], less=False)
    return Table(field, [field, "System", "Runs", *metrics], lines, {"System"})


def _cells(cells: Sequence[Mapping[str, Any]]) -> Axis:
    lines = [
        Line(
            Cell(cell["name"]),
            [Cell(cell["status"], cell["error"]), Cell(cell["command"])],
            marked=cell["status"] == "failed",
        )
        for cell in cells
    ]
    table = Table("Every cell", ["Cell", "Status", "Command"], lines, {"Status", "Command"})
    return Axis("", Markup(""), [], table, "What a failed cell said is in the .log beside it.")
