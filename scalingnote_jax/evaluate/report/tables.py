"""The report's tables as plain values: results, comparisons, the index's settings, robustness. The
template `macros.html` draws them all alike. Those of several collections are in `crossed.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scalingnote_jax.evaluate.report.words import (
    NONE,
    Row,
    ann_cutoffs,
    first_row,
    fixed,
    millions,
    milliseconds,
    number,
    plain,
    probability,
    run_name,
    search_name,
    setting,
    span,
    system_name,
)

LEVEL = 0.05  # of the comparisons
# Of `judged`: key, title, whether less is better.
JUDGED = (
    ("auc_rel", "AUC-REL", False),
    ("auc_sat", "AUC-SAT", False),
    ("contrastive_entropy", "contrastive entropy", True),
)
Cost = tuple[str, str, Callable[[float], str]]
COSTS: tuple[Cost, ...] = (
    ("query_ms_p50", "p50, ms", milliseconds),
    ("query_ms_p99", "p99, ms", milliseconds),
    ("params_non_embedding", "params, M", millions),
    ("cost.flops", "to make, PFLOP", lambda flops: f"{flops / 1e15:.3g}"),
    ("cost.secs", "to make, min", lambda secs: f"{secs / 60:.1f}"),
)


@dataclass
class Cell:
    """What is shown, a detail below it, and what the column is sorted by (None: the text)."""

    shown: str = NONE
    detail: str = ""
    value: float | None = None
    best: bool = False  # bold
    own: bool = False  # marked: see the table's note


@dataclass(frozen=True)
class Line:
    head: Cell
    cells: list[Cell]
    marked: bool = False


@dataclass(frozen=True)
class Table:
    """A heading for each column, the first one's included; columns named in `texts` hold words."""

    caption: str
    columns: list[str]
    lines: list[Line]
    texts: set[str] = field(default_factory=set)


def results(rows: Sequence[Row], shipped: str = "student") -> Table | None:
    """Systems as rows; metrics with their intervals, judged scores, what the index finds and costs
    as columns. The row of the system that ships is marked.
    """
    if not rows:
        return None
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    judged = [j for j in JUDGED if any(number(_judged(row).get(j[0])) is not None for row in rows)]
    every = [*(_ann(k) for k in ann_cutoffs(rows)), *COSTS]
    costs = [c for c in every if "." not in c[0] or any(_at(row, c[0]) for row in rows)]
    lines = []
    for row in rows:
        what = f"{system_name(row['system'])} · {search_name(row['search'])}"
        cells = [_metric(row, name) for name in names]
        cells += [_judgement(_judged(row), key) for key, _, _ in judged]
        cells += [_cost(_at(row, key), form) for key, _, form in costs]
        head = Cell(what, row.get("query_tower") or "")
        lines.append(Line(head, cells, row is first_row(rows, shipped)))
    less_is_better = [False] * len(names) + [less for _, _, less in judged]
    for place, less in enumerate(less_is_better):
        mark_best([line.cells[place] for line in lines], less)
    titles = [*names, *(title for _, title, _ in judged), *(title for _, title, _ in costs)]
    return Table("Results", ["System", *titles], lines)


def _ann(k: int) -> Cost:
    return f"ann_recall@{k}", f"ANN recall@{k}", "{:.3f}".format


def _judged(row: Row) -> dict[str, Any]:
    return row.get("judged") or {}


def _metric(row: Row, name: str) -> Cell:
    value = row["metrics"].get(name)
    interval = (row.get("intervals") or {}).get(name)
    return Cell(fixed(value), span(interval), number(value))


def _judgement(judged: Mapping[str, Any], key: str) -> Cell:
    deviation = number(judged.get(f"{key}_sd"))
    detail = "" if deviation is None else f"± {deviation:.3f}"
    return Cell(fixed(judged.get(key)), detail, number(judged.get(key)))


def _at(row: Row, key: str) -> Any:
    """A field, or with a dot a field of a field."""
    head, _, rest = key.partition(".")
    return (row.get(head) or {}).get(rest) if rest else row.get(head)


def _cost(value: Any, form: Callable[[float], str]) -> Cell:
    x = number(value)
    return Cell() if x is None else Cell(form(x), value=x)


def mark_best(cells: Sequence[Cell], less: bool) -> None:
    """Bold for all that read the same as the best; the best of one is nothing to boast of."""
    values = [cell.value for cell in cells if cell.value is not None]
    if len(values) < 2:
        return
    best = fixed(min(values) if less else max(values))
    for cell in cells:
        cell.best = cell.value is not None and cell.shown == best


def comparisons(
    caption: str, found: Sequence[Mapping[str, Any]], name: Callable[[str], str] = run_name
) -> Table:
    """Each pair of rows by one metric: the difference, and whether chance may explain it.

    Args:
        name: what a row is called.
    """
    lines = []
    for c in found:
        difference, p = number(c.get("difference")), number(c.get("p_holm"))
        words = NONE if p is None else "yes" if p < LEVEL else "not shown"
        pair = Cell(f"{name(str(c['a']))} − {name(str(c['b']))}")
        cells = [
            Cell(fixed(difference, signed=True), value=difference),
            Cell(probability(c.get("p")), value=number(c.get("p"))),
            Cell(probability(p), value=p, best=p is not None and p < LEVEL),
            Cell(words),
        ]
        lines.append(Line(pair, cells))
    columns = ["Pair", "Difference", "p", "p, Holm", "Differ?"]
    return Table(caption, columns, lines, {"Differ?"})


def tuned(points: Sequence[Mapping[str, Any]]) -> Table | None:
    """Every setting of the index that was tried, for each k, with the columns in which they
    differ.
    """
    if not points:
        return None
    names = changing(points)
    lines = []
    for i, point in enumerate(points, start=1):
        chosen, own = bool(point.get("chosen")), point.get("settings") or {}
        values = [Cell(setting(own.get(name)), value=number(own.get(name))) for name in names]
        recall, speed = number(point.get("recall")), number(point.get("queries_per_sec"))
        said = NONE if speed is None else f"{speed:,.0f}"
        depth = Cell(setting(point.get("k")), value=number(point.get("k")))
        cells = [depth, Cell(fixed(recall), value=recall), Cell(said, value=speed), *values]
        lines.append(Line(Cell(str(i), "chosen" if chosen else "", value=float(i)), cells, chosen))
    titles = [plain(name) for name in names]
    return Table("Settings tried", ["No.", "k", "recall@k", "queries/s", *titles], lines)


def changing(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the settings that are not the same in all points."""
    tried = [point.get("settings") or {} for point in points]
    names = dict.fromkeys(name for own in tried for name in own)
    return [name for name in names if len({setting(own.get(name)) for own in tried}) > 1]


def strengths(points: Sequence[Mapping[str, Any]]) -> Table | None:
    """Every measured point of the robustness suite."""
    lines = [
        Line(
            Cell(plain(p["kind"])),
            [
                Cell(system_name(str(p["system"]))),
                Cell(str(p["metric"])),
                Cell(setting(p["strength"]), value=number(p["strength"])),
                Cell(fixed(p.get("value")), value=number(p.get("value"))),
                Cell(span(p.get("interval")) or NONE),
            ],
        )
        for p in points
    ]
    columns = ["Disturbance", "System", "Metric", "Strength", "Value", "95\u00a0% interval"]
    return Table("Robustness", columns, lines, {"System", "Metric", columns[-1]}) if lines else None
