"""The top of the report: the result in one sentence, the few numbers that one looks for first, and
what the student keeps of the teacher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scalingnote_jax.evaluate.report.words import (
    Row,
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


def lead(rows: Sequence[Row], retention: Mapping[str, float]) -> str:
    """The result in one plain sentence."""
    student, metric = first_row(rows, "student"), _headline(retention)
    if student is None or metric is None:
        best = max(
            (row for row in rows if row["metrics"]),
            key=lambda row: next(iter(row["metrics"].values())),
            default=None,
        )
        if best is None:
            return "Nothing was evaluated."
        metric, value = next(iter(best["metrics"].items()))
        who = f"{system_name(best['system'])} ({search_name(best['search'])})"
        return f"The best {metric} is {value:.3f}, by {who}."
    text = f"The student keeps {percent(retention[metric])} of the teacher's {metric}"
    fewer = _fewer(rows)
    if fewer is not None and fewer >= 1.05:
        times = f"{fewer:.0f}" if fewer >= 10 else f"{fewer:.1f}"
        text += f" with {times} times fewer non-embedding parameters"
    if student.get("query_ms_p50") is not None:
        half = milliseconds(student["query_ms_p50"])
        text += f"; half of the queries are answered within {half}\u00a0ms"
    return text + "."


def facts(rows: Sequence[Row], retention: Mapping[str, float]) -> list[Fact]:
    """The few numbers that one looks for first."""
    student, metric = first_row(rows, "student") or {}, _headline(retention)
    teacher, fewer = first_row(rows, "teacher") or {}, _fewer(rows)
    found: list[Fact] = []
    if metric is not None and student and teacher:
        values = (row["metrics"][metric] for row in (student, teacher))
        detail = "{:.3f} of {:.3f}".format(*values)
        found.append(Fact(f"{metric} kept", percent(retention[metric]), detail))
    if fewer is not None:
        small, large = (millions(row["params_non_embedding"]) for row in (student, teacher))
        found.append(Fact("Parameters", f"{small}\u00a0M", f"teacher {large}\u00a0M"))
    if student.get("query_ms_p50") is not None:
        half, most = (milliseconds(student[f"query_ms_{p}"]) for p in ("p50", "p99"))
        found.append(Fact("Time per query", f"{half}\u00a0ms", f"99\u00a0% within {most}\u00a0ms"))
    if student.get("ann_recall@10") is not None:
        found.append(
            Fact("Index finds", percent(student["ann_recall@10"]), "of the exact ten best")
        )
    return found


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


def _headline(retention: Mapping[str, float]) -> str | None:
    return "Recall@10" if "Recall@10" in retention else next(iter(retention), None)


def _fewer(rows: Sequence[Row]) -> float | None:
    """How many times fewer parameters without embeddings the student has."""
    sizes: list[Any] = [
        number((first_row(rows, s) or {}).get("params_non_embedding"))
        for s in ("teacher", "student")
    ]
    return sizes[0] / sizes[1] if sizes[0] and sizes[1] else None
