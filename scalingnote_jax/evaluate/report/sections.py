"""Which sections the report has, and what is in each. One whose data is not there is left out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from scalingnote_jax.errors import redacted
from scalingnote_jax.evaluate.report import crossed, pictures, searches, summary, tables
from scalingnote_jax.evaluate.report.svg import looks, sample
from scalingnote_jax.evaluate.report.words import number, plain, settings, size, system_name

MARGIN = 0.05  # of the robustness axis, above the highest value


class Section(NamedTuple):
    """Its name in the navigation, its heading, the template that draws it and what that needs."""

    short: str
    title: str
    template: str
    data: Any

    @property
    def id(self) -> str:
        return self.short.lower()


class Figure(NamedTuple):
    caption: str
    svg: Markup


class FigureGroup(NamedTuple):
    """Pictures that belong together, with their legend (sample, name), note and numbers."""

    figures: list[Figure]
    legend: list[tuple[Markup, str]]
    note: str
    table: tables.Table | None


def sections(
    metrics: Mapping[str, Any],
    curves: Mapping[str, Sequence[dict[str, Any]]],
    examples: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    command: str,
) -> list[Section]:
    """All that there is to show, in order. Arguments as for `write_report`."""
    bars = summary.bars(metrics.get("retention") or {}, metrics.get("retention_intervals"))
    groups = metrics.get("entities") or {}
    entities = summary.entity_bars(groups)
    of_each = ", ".join(f"{group['queries']} {name}" for name, group in groups.items())
    index = metrics.get("index") or {}
    shown = json.dumps(config, indent=2, ensure_ascii=False)
    shipped = summary.Kept.of(metrics).shipped
    worst = [searches.worst(w, shipped) for w in metrics.get("worst") or ()]
    compared = _by_metric(metrics.get("comparisons") or ())
    across = crossed.of_a_run(metrics.get("collections") or ())
    scores = _scores(metrics.get("scores") or {})
    spread = [searches.example(e, shipped) for e in examples]
    # A report is passed on; what was typed may hold a password
    typed = {"command": redacted(command), "config": redacted(shown)}
    origin = {**typed, "title": "Config, as resolved"}
    every = [
        Section("Results", "Results", "results.html", tables.results(metrics["rows"], shipped)),
        Section("Differences", "Which differences are real", "differences.html", compared),
        Section("Retention", "What the student keeps", "bars.html", bars),
        Section("Entities", f"Seen and unseen entities: {of_each}", "bars.html", entities),
        Section("Index", "The index", "index.html", _index(index)),
        Section("Robustness", "Robustness", "figures.html", _robustness(metrics)),
        Section("Collections", "Other collections", "matrices.html", across),
        Section("Scores", "Scores", "figures.html", scores),
        Section("Worst", "Where the student falls behind", "worst.html", worst),
        Section("Training", "Training", "figures.html", _training(curves)),
        Section("Examples", "Example searches", "examples.html", spread),
        Section("Origin", "How it was made", "origin.html", origin),
    ]
    return [section for section in every if section.data]


def _figures(drawn: Sequence[tuple[str, str]], **rest: Any) -> FigureGroup | None:
    """None where no picture has anything in it."""
    figures = [Figure(caption, Markup(svg)) for caption, svg in drawn if svg]
    default: dict[str, Any] = {"legend": [], "note": "", "table": None}
    return FigureGroup(figures, **(default | rest)) if figures else None


def _by_metric(comparisons: Sequence[Mapping[str, Any]]) -> list[tables.Table]:
    """A table for each metric: every pair of rows is compared by every metric, which is many."""
    metrics = dict.fromkeys(str(c["metric"]) for c in comparisons)
    return [
        tables.comparisons(f"Differences in {m}", [c for c in comparisons if c["metric"] == m])
        for m in metrics
    ]


def _index(index: Mapping[str, Any]) -> dict[str, Any] | None:
    points = index.get("tuning") or []
    target = number(index.get("target_recall"))
    facts = [
        ("Kind", str(index["kind"])) if index.get("kind") else None,
        ("Settings", settings(index["settings"])) if index.get("settings") else None,
        *((f"Search for {d['k']}", settings(_without(d, "k"))) for d in index.get("depths") or ()),
        ("Memory", size(index["memory_bytes"])) if number(index.get("memory_bytes")) else None,
        ("On disk", size(index["disk_bytes"])) if number(index.get("disk_bytes")) else None,
        ("Target recall", f"{target:g}") if target is not None else None,
    ]
    by_k: dict[Any, list[Mapping[str, Any]]] = {}
    for point in points:
        by_k.setdefault(point.get("k"), []).append(point)
    drawn = [pictures.tuning(own, target, k) for k, own in by_k.items()]
    svg = Markup("".join(drawn))
    known = [fact for fact in facts if fact]
    return {"facts": known, "svg": svg, "table": tables.tuned(points)} if known or svg else None


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def _robustness(metrics: Mapping[str, Any]) -> FigureGroup | None:
    """A picture for each disturbance and metric; one legend, one scale for each metric."""
    points = [p for p in metrics.get("robustness") or () if number(p.get("value")) is not None]
    styles = looks(str(p["system"]) for p in points)
    pairs = list(dict.fromkeys((str(p["kind"]), str(p["metric"])) for p in points))
    drawn = []
    for kind, metric in pairs:
        series: dict[str, list[pictures.Point]] = {}
        for p in (p for p in points if (p["kind"], p["metric"]) == (kind, metric)):
            low, high = p.get("interval") or (p["value"], p["value"])
            series.setdefault(p["system"], []).append((p["strength"], p["value"], low, high))
        ordered = {system: sorted(line) for system, line in series.items()}
        top = max(_top(p) for p in points if p["metric"] == metric)
        title = f"{plain(kind).capitalize()}: {metric}"
        limits = (0.0, (1 + MARGIN) * top or 1.0)
        drawn.append((title, pictures.robustness(title, ordered, styles, limits)))
    return _figures(
        drawn,
        legend=[(Markup(sample(look)), system_name(s)) for s, look in styles.items()],
        note="Further right: disturbed more. Bands: 95\u00a0% intervals.",
        table=tables.strengths(points),
    )


def _top(point: Mapping[str, Any]) -> float:
    return max(point["value"], *(point.get("interval") or ()))


def _scores(scores: Mapping[str, Mapping[str, Any]]) -> FigureGroup | None:
    drawn = []
    for system, found in scores.items():
        name, counts = system_name(system), (found["positives"], found["negatives"])
        drawn.append((name, pictures.histogram(name, found["edges"], *counts)))
    note = (
        "Filled: relevant documents. Dashed outline: the others. Each as shares of its own number; "
        "the less the two overlap, the better the scores tell them apart."
    )
    return _figures(drawn, note=note)


def _training(curves: Mapping[str, Sequence[dict[str, Any]]]) -> FigureGroup | None:
    train, distill, refine = (curves.get(stage, ()) for stage in ("train", "distill", "refine"))
    wanted = [
        ("Teacher: contrastive loss", train, "loss", False),
        ("Teacher: in-batch accuracy", train, "accuracy", True),
        ("Student: distillation loss", distill, "loss", False),
        ("Student, new queries: teacher's top 10 found", distill, "heldout_overlap@10", True),
        ("Refined student: contrastive loss", refine, "contrastive", False),
    ]
    return _figures(
        [(title, pictures.curve(records, key, title, p)) for title, records, key, p in wanted]
    )
