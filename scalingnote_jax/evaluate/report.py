"""`report.html`: one page for a person, with everything inside it.

Text, CSS and pictures in one file that loads nothing; reads in light and dark and on a phone. The
page's frame and style are in `report.html` beside this file, the curves in `plots.py`. Computes no
metric: it shows what `eval/metrics.json` and the training logs say.
"""

from __future__ import annotations

import datetime
import json
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from scalingnote_jax.evaluate.plots import curve

NAMES = {
    "bm25": "BM25",
    "untrained": "Untrained",
    "teacher": "Teacher",
    "student": "Student",
    "student_int8": "Student, int8",
}
SEARCHES = {"exact": "exact search", "scann": "ScaNN index", "lexical": "word matching"}
SHOWN = 5  # documents per example
SNIPPET_CHARS = 180
LEGEND = (
    "Bold: best of the column. ANN recall@10: share of the exact ten best that the index returns. "
    "p50, p99: milliseconds from a query's text to its documents, one query at a time. "
    "Params: millions of parameters of the query tower, without embeddings."
)

Row = dict[str, Any]


def write_report(
    path: str | Path,
    metrics: Mapping[str, Any],
    curves: Mapping[str, Sequence[dict[str, Any]]],
    examples: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    command: str | None = None,
) -> None:
    """Writes the page, as a whole or not at all.

    Args:
        path: the .html file.
        metrics: what `eval/metrics.json` holds.
        curves: "train" and "distill" → records of their `metrics.jsonl`; either may be empty.
        examples: of each {"query": text, "relevant": document ids, "results": system → [(document
            id, text, score)], best first}.
        config: the resolved config as plain values.
        command: the command line that made it; by default that of this process.
    """
    rows: list[Row] = list(metrics["rows"])
    retention: dict[str, float] = dict(metrics.get("retention", {}))
    name = str(config.get("name", metrics["dataset"]))
    today = datetime.date.today()
    date = f"{today.day} {today:%B %Y}"
    split = config.get("eval", {}).get("split", "")
    count = f"{rows[0]['queries'] if rows else 0:,}"
    sections = [
        _table(rows),
        _retention(retention),
        _curves(curves),
        _examples(examples),
        _origin(command or _this_command(), config),
    ]
    frame = Template(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    page = frame.substitute(
        name=escape(name),
        meta=escape(f"{metrics['dataset']} · {' '.join([count, split]).strip()} queries · {date}"),
        lead=escape(_lead(rows, retention)),
        facts=_facts(rows, retention),
        sections="\n".join(sections),
    )
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    # A lone surrogate in somebody's text must not cost them the report.
    partial.write_text(page, encoding="utf-8", errors="replace")
    partial.replace(path)


def _row(rows: Sequence[Row], system: str) -> Row | None:
    """A system's row; the one with the index, which is what ships, if there are two."""
    own = [row for row in rows if row["system"] == system]
    return next((row for row in own if row["search"] == "scann"), own[0] if own else None)


def _headline(retention: Mapping[str, float]) -> str | None:
    return "Recall@10" if "Recall@10" in retention else next(iter(retention), None)


def _fewer(rows: Sequence[Row]) -> float | None:
    """How many times fewer parameters without embeddings the student has."""
    sizes = [(_row(rows, s) or {}).get("params_non_embedding") for s in ("teacher", "student")]
    return sizes[0] / sizes[1] if sizes[0] and sizes[1] else None


def _lead(rows: Sequence[Row], retention: Mapping[str, float]) -> str:
    """The result in one plain sentence."""
    student, metric = _row(rows, "student"), _headline(retention)
    if student is None or metric is None:
        best = max(
            (row for row in rows if row["metrics"]),
            key=lambda row: next(iter(row["metrics"].values())),
            default=None,
        )
        if best is None:
            return "Nothing was evaluated."
        metric, value = next(iter(best["metrics"].items()))
        return f"The best {metric} is {value:.3f}, by {_system(best)} ({_search(best)})."
    text = f"The student keeps {100 * retention[metric]:.1f} % of the teacher's {metric}"
    fewer = _fewer(rows)
    if fewer is not None and fewer >= 1.05:
        times = f"{fewer:.0f}" if fewer >= 10 else f"{fewer:.1f}"
        text += f" with {times} times fewer non-embedding parameters"
    if student.get("query_ms_p50") is not None:
        text += f"; half of the queries are answered within {_ms(student['query_ms_p50'])} ms"
    return text.replace(" %", "\u00a0%").replace(" ms", "\u00a0ms") + "."


def _facts(rows: Sequence[Row], retention: Mapping[str, float]) -> str:
    """The few numbers that one looks for first."""
    student, metric = _row(rows, "student") or {}, _headline(retention)
    teacher, fewer = _row(rows, "teacher") or {}, _fewer(rows)
    facts: list[tuple[str, str, str]] = []
    if metric is not None:
        values = (row["metrics"][metric] for row in (student, teacher))
        detail = "{:.3f} of {:.3f}".format(*values)
        facts.append((f"{metric} kept", f"{100 * retention[metric]:.1f} %", detail))
    if fewer is not None:
        small, large = (_millions(row["params_non_embedding"]) for row in (student, teacher))
        facts.append(("Parameters", f"{small} M", f"teacher {large} M"))
    if student.get("query_ms_p50") is not None:
        slow = f"99 % within {_ms(student['query_ms_p99'])} ms"
        facts.append(("Time per query", f"{_ms(student['query_ms_p50'])} ms", slow))
    if student.get("ann_recall@10") is not None:
        value = f"{100 * student['ann_recall@10']:.1f} %"
        facts.append(("Index finds", value, "of the exact ten best"))
    cells = (
        f'<div class="card"><dt>{escape(what)}</dt>'
        f"<dd>{escape(value)}<small>{escape(detail)}</small></dd></div>"
        for what, value, detail in facts
    )
    return f'<dl class="facts">{"".join(cells)}</dl>' if facts else ""


def _table(rows: Sequence[Row]) -> str:
    """Systems as rows; metrics, index and cost as columns."""
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    best = {n: max(row["metrics"][n] for row in rows if n in row["metrics"]) for n in names}
    costs = [
        ("ann_recall@10", "ANN recall@10", "{:.3f}".format),
        ("query_ms_p50", "p50, ms", _ms),
        ("query_ms_p99", "p99, ms", _ms),
        ("params_non_embedding", "params, M", _millions),
    ]
    head = "".join(
        f'<th scope="col">{escape(title)}</th>'
        for title in ("System", *names, *(title for _, title, _ in costs))
    )
    body = []
    for row in rows:
        tower = f"<small>{escape(row['query_tower'])}</small>" if row.get("query_tower") else ""
        what = f"{escape(_system(row))} <span>{escape(_search(row))}</span>{tower}"
        cells = [f'<th scope="row">{what}</th>']
        for name in names:
            value = row["metrics"].get(name)
            shown = None if value is None else f"{value:.3f}"
            cells.append(_cell(shown, bold=shown == f"{best[name]:.3f}" and len(rows) > 1))
        for key, _, form in costs:
            cells.append(_cell(None if row.get(key) is None else form(row[key])))
        shipped = ' class="shipped"' if row is _row(rows, "student") else ""
        body.append(f"<tr{shipped}>{''.join(cells)}</tr>")
    return (
        '<h2>Results</h2><div class="card scroll" tabindex="0" role="region" aria-label="Results">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        f'<p class="note">{escape(LEGEND)}</p>'
    )


def _cell(shown: str | None, bold: bool = False) -> str:
    if shown is None:
        return '<td class="none">–</td>'
    return f"<td><b>{escape(shown)}</b></td>" if bold else f"<td>{escape(shown)}</td>"


def _retention(retention: Mapping[str, float]) -> str:
    """Student / teacher as bars, with a mark where the teacher is."""
    if not retention:
        return ""
    widest = max(1.0, *retention.values())
    bars = "".join(
        f'<div><span>{escape(name)}</span><span class="track"><i style="width:'
        f'{100 * value / widest:.2f}%"></i><s style="left:calc({100 / widest:.2f}% - 2px)"></s>'
        f'</span><span class="value">{100 * value:.1f} %</span></div>'
        for name, value in retention.items()
    )
    return (
        f'<h2>What the student keeps</h2><div class="card bars">{bars}</div>'
        '<p class="note">Student / teacher on the same search; the mark is the teacher, 100 %.</p>'
    )


def _curves(curves: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    train, distill = curves.get("train", ()), curves.get("distill", ())
    pictures = [
        ("Teacher: contrastive loss", train, "loss", False),
        ("Teacher: in-batch accuracy", train, "accuracy", True),
        ("Student: distillation loss", distill, "loss", False),
    ]
    figures = []
    for title, records, key, percent in pictures:
        svg = curve(records, key, title, percent)
        if svg:
            figures.append(
                f'<figure class="card"><figcaption>{escape(title)}</figcaption>{svg}</figure>'
            )
    return f'<h2>Training</h2><div class="plots">{"".join(figures)}</div>' if figures else ""


def _examples(examples: Sequence[Mapping[str, Any]]) -> str:
    if not examples:
        return ""
    return "<h2>Example searches</h2>" + "".join(map(_example, examples))


def _example(example: Mapping[str, Any]) -> str:
    """One query: what the student found, and where each other system has its first right answer."""
    relevant, results = set(example["relevant"]), dict(example["results"])
    main = "student" if "student" in results else next(iter(results), "")
    items = []
    for rank, (doc_id, text, score) in enumerate(results.get(main, [])[:SHOWN], start=1):
        right = doc_id in relevant
        tick = '<span class="tick">✓ right</span> ' if right else ""
        items.append(
            f"<li{' class=right' if right else ''}><span>{rank}</span><div>{tick}"
            f'{escape(_snippet(text))} <span class="id">{escape(str(doc_id))}</span></div>'
            f'<span class="score">{score:.3f}</span></li>'
        )
    found = "<ol>" + "".join(items) + "</ol>" if items else '<p class="note">Nothing found.</p>'
    where = "\u00a0· ".join(  # a line never begins with the dot
        f"{NAMES.get(system, system)} {_first_right(hits, relevant)}"
        for system, hits in results.items()
    )
    return (
        f'<article class="card example"><h3>{escape(_snippet(example["query"]))}</h3>{found}'
        f'<p class="note where">First right answer: {escape(where)}</p></article>'
    )


def _first_right(hits: Sequence[tuple[str, str, float]], relevant: Collection[str]) -> str:
    for rank, (doc_id, _, _) in enumerate(hits[:SHOWN], start=1):
        if doc_id in relevant:
            return f"at {rank}"
    return f"not in the first {SHOWN}"


def _snippet(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SNIPPET_CHARS else text[: SNIPPET_CHARS - 1].rstrip() + "…"


def _origin(command: str, config: Mapping[str, Any]) -> str:
    shown = json.dumps(config, indent=2, ensure_ascii=False)
    return (
        '<h2>How it was made</h2><div class="card scroll" tabindex="0" role="region" '
        f'aria-label="Command"><pre><code>{escape(command)}</code></pre></div>'
        '<details class="card"><summary>Config, as resolved</summary>'
        f'<div class="scroll"><pre><code>{escape(shown)}</code></pre></div></details>'
    )


def _this_command() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _system(row: Row) -> str:
    return NAMES.get(row["system"], str(row["system"]))


def _search(row: Row) -> str:
    return SEARCHES.get(row["search"], str(row["search"]))


def _ms(value: float) -> str:
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _millions(value: float) -> str:
    return f"{value / 1e6:.1f}"
