"""The top of the report: the result in one sentence, the few numbers that one looks for first, and
what the student keeps of the teacher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scalingnote_jax.evaluate.report.words import (
    INDEXES,
    Row,
    ann_cutoffs,
    first_row,
    millions,
    milliseconds,
    number,
    percent,
    search_name,
    span,
    system_name,
)


class Fact(NamedTuple):
    what: str
    value: str
    detail: str


class RetentionBar(NamedTuple):
    """One metric's retention; lengths in percent of the track."""

    name: str
    length: float
    teacher: float
    interval: tuple[float, float] | None
    value: str
    detail: str


class Kept(NamedTuple):
    """What the shipped student keeps of its teacher.

    Attributes:
        shipped: the name of the system that ships.
        retention: metric → student / teacher.
        intervals: metric → the 95 % interval of that.
    """

    shipped: str
    retention: Mapping[str, float]
    intervals: Mapping[str, Sequence[float]]

    @classmethod
    def of(cls, metrics: Mapping[str, Any]) -> Kept:
        """From what `eval/metrics.json` holds."""
        found = (metrics.get(name) or {} for name in ("retention", "retention_intervals"))
        return cls(str(metrics.get("shipped", "student")), *found)

    @property
    def headline(self) -> str | None:
        """The metric that is said first."""
        if "Recall@10" in self.retention:
            return "Recall@10"
        return next(iter(self.retention), None)


def lead(rows: Sequence[Row], kept: Kept) -> str:
    """The result in plain sentences: who is best, and what the student keeps of the teacher."""
    student, metric = first_row(rows, kept.shipped), kept.headline
    metric = metric or next((name for row in rows for name in row["metrics"]), None)
    if metric is None:
        return "Nothing was evaluated."
    who = _best(rows, metric)
    text = f"The best {metric} is {who['metrics'][metric]:.3f}, by {_said(who)}"
    if student is None or metric not in kept.retention:
        return text + "."
    if who["system"] != kept.shipped:
        text += f"; the student, which ships, has {student['metrics'][metric]:.3f}"
    text += f". The student keeps {percent(kept.retention[metric])}"
    spread = span(kept.intervals.get(metric), scale=100, decimals=1)
    text += f" (95\u00a0% interval {spread})" if spread else ""
    text += f" of the teacher's {metric}"
    fewer = _fewer(rows, kept.shipped)
    if fewer is not None and fewer >= 1.05:
        times = f"{fewer:.0f}" if fewer >= 10 else f"{fewer:.1f}"
        text += f" with {times} times fewer non-embedding parameters"
    if student.get("query_ms_p50") is not None:
        half = milliseconds(student["query_ms_p50"])
        text += f"; half of the queries are answered within {half}\u00a0ms"
    return text + "."


def _best(rows: Sequence[Row], metric: str) -> Row:
    """The row with the highest value; an index's before the exact search of equal value, as it is
    what ships.
    """
    shown = [row for row in rows if row["metrics"].get(metric) is not None]
    return max(shown, key=lambda row: (row["metrics"][metric], row["search"] in INDEXES))


def _said(row: Row) -> str:
    return f"{system_name(row['system'])} ({search_name(row['search'])})"


def facts(rows: Sequence[Row], kept: Kept) -> list[Fact]:
    """The few numbers that one looks for first."""
    student, metric = first_row(rows, kept.shipped) or {}, kept.headline
    teacher, fewer = first_row(rows, "teacher") or {}, _fewer(rows, kept.shipped)
    found: list[Fact] = []
    if metric is not None and student and teacher:
        values = (row["metrics"][metric] for row in (student, teacher))
        detail = "{:.3f} of {:.3f}".format(*values)
        found.append(Fact(f"{metric} kept", percent(kept.retention[metric]), detail))
    if fewer is not None:
        small, large = (millions(row["params_non_embedding"]) for row in (student, teacher))
        found.append(Fact("Parameters", f"{small}\u00a0M", f"teacher {large}\u00a0M"))
    if student.get("query_ms_p50") is not None:
        half, most = (milliseconds(student[f"query_ms_{p}"]) for p in ("p50", "p99"))
        found.append(Fact("Time per query", f"{half}\u00a0ms", f"99\u00a0% within {most}\u00a0ms"))
    recalls = [(value, k) for k in ann_cutoffs([student]) if (value := student[f"ann_recall@{k}"])]
    if recalls:
        least, k = min(recalls)
        found.append(Fact("Index finds", percent(least), f"of the exact best {k}, at least"))
    return found


def entity_bars(entities: Mapping[str, Mapping[str, Any]]) -> list[RetentionBar]:
    """What is kept for queries about entities that training has seen and for those about others."""
    names = dict.fromkeys(name for group in entities.values() for name in group["retention"])
    kept: dict[str, float] = {}
    intervals: dict[str, Sequence[float]] = {}
    for name in names:
        for group, found in entities.items():
            if name in found["retention"]:
                label = f"{name}, {group}"
                kept[label] = found["retention"][name]
                intervals[label] = found["retention_intervals"][name]
    return bars(kept, intervals)


def bars(
    retention: Mapping[str, float], intervals: Mapping[str, Sequence[float]] | None
) -> list[RetentionBar]:
    """Student / teacher for each metric, on one scale that has room for the teacher."""
    given = {name: i for name, i in (intervals or {}).items() if name in retention and span(i)}
    widest = max([1.0, *retention.values(), *(high for _, high in given.values())], default=1.0)
    found = []
    for name, value in retention.items():
        low_high = given.get(name)
        found.append(
            RetentionBar(
                name,
                100 * value / widest,
                100 / widest,
                None
                if low_high is None
                else (low_high[0] / widest * 100, low_high[1] / widest * 100),
                percent(value),
                span(low_high, scale=100, decimals=1),
            )
        )
    return found


def _fewer(rows: Sequence[Row], shipped: str) -> float | None:
    """How many times fewer parameters without embeddings the student has."""
    sizes: list[Any] = [
        number((first_row(rows, s) or {}).get("params_non_embedding")) for s in ("teacher", shipped)
    ]
    return sizes[0] / sizes[1] if shipped != "teacher" and sizes[0] and sizes[1] else None
