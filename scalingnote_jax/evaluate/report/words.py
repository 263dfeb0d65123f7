"""How the report names systems and writes numbers. Plain text: escaping is the templates' work."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scalingnote_jax.errors import printable
from scalingnote_jax.systems import label

Row = dict[str, Any]

INDEXES = ("scann", "milvus")  # searches that are not exact, as `index.engine` names them
SEARCHES = {
    "exact": "exact search",
    "scann": "ScaNN index",
    "milvus": "Milvus",
    "lexical": "word matching",
}
NONE = "–"  # where a number is missing
SNIPPET_CHARS = 180
UNITS = ("B", "KB", "MB", "GB", "TB")


def system_name(system: str) -> str:
    """As a person reads it; a run that was read keeps its own name."""
    return label(system)


def search_name(search: str) -> str:
    return SEARCHES.get(search, search)


def run_name(run: str) -> str:
    """ "student/scann" → "Student, ScaNN index"."""
    system, _, search = run.partition("/")
    return f"{system_name(system)}, {search_name(search)}" if search else system_name(system)


def number(value: Any) -> float | None:
    """A finite number, or None for whatever else a JSON file may hold."""
    good = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if good else None


def fixed(value: Any, signed: bool = False) -> str:
    """Three decimals; a real minus sign, which is as wide as the plus."""
    x = number(value)
    if x is None:
        return NONE
    return (f"{x:+.3f}" if signed else f"{x:.3f}").replace("-", "−")


def span(interval: Sequence[Any] | None, scale: float = 1, decimals: int = 3) -> str:
    """[low, high] as text; "" where there is none."""
    if not interval or number(interval[0]) is None or number(interval[1]) is None:
        return ""
    low, high = (f"{scale * x:.{decimals}f}".replace("-", "−") for x in interval)
    return f"{low} to {high}"


def counted(count: int, what: str) -> str:
    """ "1 workdir", "2 workdirs"."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def percent(share: float) -> str:
    return f"{100 * share:.1f}\u00a0%"


def probability(p: Any) -> str:
    x = number(p)
    if x is None:
        return NONE
    return "< 0.001" if x < 0.001 else f"{x:.3f}"


def milliseconds(value: float) -> str:
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def millions(value: float) -> str:
    return f"{value / 1e6:.1f}"


def size(count: float) -> str:
    """Bytes in the unit that leaves at most three digits before the point."""
    power = 0
    while count >= 1000 and power < len(UNITS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.0f}\u00a0{UNITS[power]}" if power == 0 else f"{count:.1f}\u00a0{UNITS[power]}"


def setting(value: Any) -> str:
    """One value of a configuration."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None:
        return NONE
    return f"{value:g}" if isinstance(value, float) else str(value)


def plain(name: Any) -> str:
    """A field's name as words."""
    return str(name).replace("_", " ")


def settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{plain(name)} {setting(v)}" for name, v in values.items())


def snippet(text: Any) -> str:
    """The beginning of a text, on one printable line."""
    line = printable(" ".join(str(text).split()))
    return line if len(line) <= SNIPPET_CHARS else line[: SNIPPET_CHARS - 1].rstrip() + "…"


def ann_cutoffs(rows: Iterable[Row]) -> list[int]:
    """Each k of the rows' "ann_recall@k", rising."""
    names = {name for row in rows for name in row if name.startswith("ann_recall@")}
    return sorted(int(name.partition("@")[2]) for name in names)


def first_row(rows: Sequence[Row], system: str) -> Row | None:
    """A system's row; the one with the index, which is what ships, if there are two."""
    own = [row for row in rows if row["system"] == system]
    return next((row for row in own if row["search"] in INDEXES), own[0] if own else None)
