"""docs/results.svg: every system of every collection as a mean with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scalingnote_jax.evaluate.report.svg import svg_file

OURS, TEACHER, OTHER = "#0b6e99", "#7a8794", "#b4530a"


class Point(NamedTuple):
    """One system's metric on one collection."""

    system: str
    mean: float
    interval: Sequence[float]  # lower and upper end; empty where it is not known


def draw(collections: Mapping[str, Mapping[str, Sequence[Point]]]) -> str:
    """A row of panels for each collection, a panel for each metric, a line for each system.

    Args:
        collections: collection → metric → its systems, from top to bottom.

    Returns:
        An SVG file's text, the same for the same numbers.
    """
    lines = [max(map(len, metrics.values())) for metrics in collections.values()]
    columns = max(map(len, collections.values()))

    def paint(figure: Figure) -> None:
        panels = figure.subplots(len(lines), columns, squeeze=False, height_ratios=lines)
        for row, (name, metrics) in zip(panels, collections.items(), strict=True):
            for axes, (metric, points) in zip(row, metrics.items(), strict=True):
                _panel(axes, points)
                axes.set_title(f"{name}: {metric}", loc="left", fontweight="bold")
            for axes in row[1:]:
                axes.tick_params(labelleft=False)

    size = (4.2 * columns, 0.24 * sum(lines) + 0.75 * len(lines))
    text = svg_file(paint, size, "results", font_size=9)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def _panel(axes: Axes, points: Sequence[Point]) -> None:
    for place, point in enumerate(points):
        colour = _colour(point.system)
        if point.interval:
            axes.plot(point.interval, [place, place], color=colour, linewidth=1.6)
        axes.plot([point.mean], [place], color=colour, marker="o", markersize=4.5)
        axes.annotate(
            f"{point.mean:.3f}",
            (point.mean, place),
            (0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color=colour,
        )
    axes.set_yticks(range(len(points)), [point.system for point in points])
    axes.set_ylim(len(points) - 0.4, -0.7)
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _colour(system: str) -> str:
    if "teacher" in system:
        return TEACHER
    return OURS if system.startswith("scalingnote") else OTHER
