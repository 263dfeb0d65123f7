"""Inline SVG from matplotlib: no script, no font file, and the colours of the page around it.

Matplotlib draws with placeholder colours, which become CSS variables here, so that one picture
reads in light and in dark. Lines differ in dash and marker as well as in colour. What is drawn is
in `pictures.py`.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterable
from itertools import cycle
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scalingnote_jax.systems import REGISTRY, Look

SIZE_INCHES = (4.2, 2.5)
SAMPLE_INCHES = (0.5, 0.18)
TEXT, GRID, LINE, INK, PAPER = "#010203", "#040506", "#070809", "#0a0b0c", "#0d0e0f"


LOOKS = {s.name: s.look for s in sorted(REGISTRY.values(), key=lambda s: s.look.series)}

# Placeholder → what the page calls that colour.
COLOURS = {
    TEXT: "var(--muted)",
    GRID: "var(--line)",
    LINE: "var(--accent)",
    INK: "var(--fg)",
    PAPER: "var(--card)",
    **{look.colour: f"var(--series-{look.series})" for look in LOOKS.values()},
}


def looks(systems: Iterable[str]) -> dict[str, Look]:
    """A look for each system: its own, or for one that is not ours the next that is free."""
    names = list(dict.fromkeys(systems))
    free = cycle([look for name, look in LOOKS.items() if name not in names] or LOOKS.values())
    return {name: LOOKS.get(name) or next(free) for name in names}


def picture(title: str, paint: Callable[[Axes], None]) -> str:
    """One set of axes as an `<svg>` element.

    Args:
        title: what it shows, in words that stand for the picture. Not drawn.
        paint: draws on the axes, with the placeholders above as its only colours.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot(facecolor="none")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        paint(axes)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(GRID)
        axes.tick_params(which="both", colors=TEXT, length=0, pad=5)
        axes.xaxis.label.set_color(TEXT)
        axes.yaxis.label.set_color(TEXT)

    return _render(draw, SIZE_INCHES, title, f'role="img" aria-label="{html.escape(title)}"')


def sample(look: Look) -> str:
    """A short piece of a system's line, for a legend that names it in words."""

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, 1)
        axes.plot([0, 1], [0, 0], color=look.colour, linestyle=look.dash, linewidth=1.8)
        axes.plot([0.5], [0], color=look.colour, marker=look.marker, markersize=5)

    return _render(draw, SAMPLE_INCHES, f"sample {look}", 'class="sample" aria-hidden="true"')


def _render(
    draw: Callable[[Figure], None], size: tuple[float, float], salt: str, attributes: str
) -> str:
    def on_nothing(figure: Figure) -> None:
        figure.patch.set_alpha(0)
        draw(figure)

    text = svg_file(on_nothing, size, salt, constrained=size == SIZE_INCHES)
    return _for_the_page(text, attributes)


def svg_file(
    draw: Callable[[Figure], None],
    size: tuple[float, float],
    salt: str,
    *,
    font_size: float = 11,
    constrained: bool = True,
) -> str:
    """The text of an SVG file, the same in each run; what is written in it stays text.

    Args:
        size: in inches.
        salt: of the ids: two pictures in one page need two.
        constrained: axes make room for their labels.
    """
    style: Any = {
        "svg.fonttype": "none",  # in the page's font
        "svg.hashsalt": salt,
        "font.size": font_size,
        "axes.unicode_minus": True,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=size, layout="constrained" if constrained else None)
        draw(figure)
        buffer = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(buffer, metadata=no_metadata)
    return buffer.getvalue()


def _for_the_page(svg: str, attributes: str) -> str:
    svg = svg[svg.index("<svg") :]  # no XML header, no DOCTYPE with its address
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)  # HTML knows the namespace
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.S)  # it would style the whole page
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same in each picture; clip paths keep theirs
    svg = svg.replace("xlink:href", "href")
    # A function, so that a backslash in a title stays one.
    svg = re.sub(
        r'^<svg[^>]*?(viewBox="[^"]*")[^>]*>', lambda m: f"<svg {m.group(1)} {attributes}>", svg
    )
    for placeholder, colour in COLOURS.items():
        svg = svg.replace(placeholder, colour)
    return svg.strip()
