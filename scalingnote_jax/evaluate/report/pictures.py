"""The report's pictures: training curves, the index's tuning, robustness, scores.

Each is an `<svg>` element with its text alternative, or "" where there is nothing to draw. The
numbers come from `eval/metrics.json` and the training logs; nothing is computed but shares and
medians for drawing and saying them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from scalingnote_jax.evaluate.report.svg import GRID, INK, LINE, PAPER, TEXT, Look, picture
from scalingnote_jax.evaluate.report.words import fixed, number, system_name

Point = tuple[float, float, float, float]  # strength, value, low, high
LOG_FROM = 10  # ratio of largest to smallest from which an axis is logarithmic


def curve(records: Sequence[dict[str, Any]], key: str, title: str, percent: bool = False) -> str:
    """One quantity over the steps of a run.

    Args:
        records: dicts with "step" and some quantities; those without a finite `key` are left out.
        key: which quantity.
        title: what the picture is called.
        percent: whether the quantity is a share.
    """
    points = [
        (step, value)
        for step, value in ((number(r.get("step")), number(r.get(key))) for r in records)
        if step is not None and value is not None
    ]
    if not points:
        return ""

    def paint(axes: Axes) -> None:
        steps, values = zip(*points, strict=True)
        dot = "o" if len(points) == 1 else ""
        axes.plot(steps, values, color=LINE, linewidth=1.8, solid_capstyle="round", marker=dot)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if len(points) == 1:
            axes.set_xticks(steps)
        if percent:
            axes.yaxis.set_major_formatter(_percent())

    (first, start), (last, end) = points[0], points[-1]
    said = f"{title}: {start:.3g} at step {first:.0f}"
    return picture(said + (f", {end:.3g} at step {last:.0f}" if len(points) > 1 else ""), paint)


def tuning(points: Sequence[Mapping[str, Any]], target: float | None, k: int | None = None) -> str:
    """Recall against queries a second for each setting tried, the chosen one as a star.

    Args:
        points: dicts with "recall", "queries_per_sec" and "chosen".
        target: the recall that was asked for.
        k: the points are of searches for so many documents; None: not known.
    """
    tried = [
        (recall, speed, bool(p.get("chosen")))
        for p in points
        if (recall := number(p.get("recall"))) is not None
        and (speed := number(p.get("queries_per_sec"))) is not None
        and speed > 0
    ]
    if not tried:
        return ""
    name = "recall" if k is None else f"recall@{k}"

    def paint(axes: Axes) -> None:
        best = _frontier([(recall, speed) for recall, speed, _ in tried])
        axes.plot(*zip(*best, strict=True), color=LINE, linewidth=1.8)
        hollow: dict[str, Any] = {
            "color": TEXT,
            "linestyle": "",
            "marker": "o",
            "markerfacecolor": PAPER,
        }
        axes.plot([r for r, _, _ in tried], [s for _, s, _ in tried], markersize=5, **hollow)
        if target is not None:
            axes.axvline(target, color=INK, linewidth=1.2, linestyle="--")
        for recall, speed, chosen in tried:
            if chosen:
                axes.plot([recall], [speed], color=INK, marker="*", markersize=14, zorder=5)
        speeds = [speed for _, speed, _ in tried]
        if max(speeds) / min(speeds) >= LOG_FROM:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(f"{name} against exact search")
        axes.set_ylabel("queries per second")

    said = f"{name.capitalize()} and speed of {len(tried)} settings"
    said += "".join(
        f"; chosen: {name} {fixed(recall)} at {speed:,.0f} queries per second"
        for recall, speed, chosen in tried
        if chosen
    )
    return picture(said + (f"; target {target:g}" if target is not None else ""), paint)


def _frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in both, by falling first coordinate."""
    best: list[tuple[float, float]] = []
    for recall, speed in sorted(points, reverse=True):
        if not best or speed > best[-1][1]:
            best.append((recall, speed))
    return best


def robustness(
    title: str,
    series: Mapping[str, Sequence[Point]],
    styles: Mapping[str, Look],
    limits: tuple[float, float],
) -> str:
    """A metric against the strength of one disturbance, a line with its band for each system.

    Args:
        title: the disturbance and the metric.
        series: system → points by rising strength.
        styles: system → its look.
        limits: of the vertical axis, the same in all pictures that are compared.
    """

    def paint(axes: Axes) -> None:
        for system, points in series.items():
            look = styles[system]
            strengths, values, low, high = zip(*points, strict=True)
            band: dict[str, Any] = {"color": look.colour, "alpha": 0.15, "linewidth": 0}
            axes.fill_between(strengths, low, high, **band)
            line: dict[str, Any] = {"color": look.colour, "linestyle": look.dash}
            axes.plot(strengths, values, linewidth=1.8, marker=look.marker, markersize=5, **line)
        axes.set_ylim(*limits)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("strength")

    ends = "; ".join(
        f"{system_name(system)} {points[0][1]:.3f} at {points[0][0]:g}"
        + (f", {points[-1][1]:.3f} at {points[-1][0]:g}" if len(points) > 1 else "")
        for system, points in series.items()
    )
    return picture(f"{title}: {ends}", paint)


def histogram(
    title: str, edges: Sequence[float], positives: Sequence[float], negatives: Sequence[float]
) -> str:
    """Scores of relevant and of other documents, each as shares of their own number.

    Args:
        title: the system.
        edges: (bins + 1) scores, rising.
        positives: (bins) how many relevant documents fall in each bin.
        negatives: (bins) the same for the others.
    """
    sides = [("relevant", positives, LINE, "-"), ("other", negatives, INK, "--")]
    drawn = [side for side in sides if sum(side[1]) > 0]
    if not drawn:
        return ""

    def paint(axes: Axes) -> None:
        for name, counts, colour, dash in drawn:
            shares = [count / sum(counts) for count in counts]
            if name == "relevant":
                axes.stairs(shares, edges, color=colour, alpha=0.25, fill=True)
            axes.stairs(shares, edges, color=colour, linewidth=1.6, linestyle=dash)
        axes.yaxis.set_major_formatter(_percent())
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("score")
        axes.spines["bottom"].set_color(GRID)

    middles = ", ".join(
        f"{name} documents {_middle(edges, counts):.3g}" for name, counts, _, _ in drawn
    )
    return picture(f"Scores of {title}; middle of {middles}", paint)


def _middle(edges: Sequence[float], counts: Sequence[float]) -> float:
    """The middle of the bin that holds the median."""
    half = sum(counts) / 2
    bins = pairwise(edges)
    return next(sum(b) / 2 for b, n in zip(bins, accumulate(counts), strict=True) if n >= half)


def _percent() -> FuncFormatter:
    return FuncFormatter(lambda value, _: f"{100 * value:.3g} %")
