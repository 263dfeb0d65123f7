"""Training curves as inline SVG: no script, no font file, and the colours of the page around them.

Matplotlib draws with placeholder colours, which become CSS variables here, so that one picture
reads in light and in dark. Not a plotting library: one line per picture, made for the report.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

SIZE_INCHES = (4.2, 2.3)
# Placeholder → what the page calls that colour.
COLOURS = {"#010203": "var(--muted)", "#040506": "var(--line)", "#070809": "var(--accent)"}
TEXT, GRID, LINE = COLOURS


def curve(records: Sequence[dict[str, Any]], key: str, title: str, percent: bool = False) -> str:
    """One quantity over the steps of a run.

    Args:
        records: dicts with "step" and some quantities; those without a finite `key` are left out.
        key: which quantity.
        title: what the picture is called; not drawn, said to screen readers.
        percent: whether the quantity is a share.

    Returns:
        An `<svg>` element, or "" when no record has the quantity.
    """
    points = [(r["step"], r[key]) for r in records if _finite(r.get("step"), r.get(key))]
    if not points:
        return ""
    style: Any = {
        "svg.fonttype": "none",  # text stays text, in the page's font
        "svg.hashsalt": f"{title} {key}",  # clip path ids: the same in each run, not in each plot
        "font.size": 9,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        _draw(figure, points, percent)
        buffer = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(buffer, metadata=no_metadata)
    return _for_the_page(buffer.getvalue(), title)


def _finite(*values: Any) -> bool:
    return all(isinstance(v, int | float) and math.isfinite(v) for v in values)


def _draw(figure: Figure, points: list[tuple[float, float]], percent: bool) -> None:
    figure.patch.set_alpha(0)
    axes = figure.add_subplot(facecolor="none")
    steps, values = zip(*points, strict=True)
    dot = "o" if len(points) == 1 else ""
    axes.plot(steps, values, color=LINE, linewidth=1.8, solid_capstyle="round", marker=dot)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)
    axes.tick_params(colors=TEXT, length=0, pad=5)
    axes.set_xlabel("step", color=TEXT)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))


def _for_the_page(svg: str, title: str) -> str:
    svg = svg[svg.index("<svg") :]  # no XML header, no DOCTYPE with its address
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)  # HTML knows the namespace
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.S)  # it would style the whole page
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same in each picture; clip paths keep theirs
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'^<svg[^>]*?(viewBox="[^"]*")[^>]*>', rf"<svg \1{_role(title)}>", svg)
    for placeholder, colour in COLOURS.items():
        svg = svg.replace(placeholder, colour)
    return svg.strip()


def _role(title: str) -> str:
    return f' role="img" aria-label="{html.escape(title)}"'
