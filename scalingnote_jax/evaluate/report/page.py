"""Writes a page: what the sections hold, drawn by the templates beside this file. `report.html` is
one; another is in `comparison.py`.
"""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from scalingnote_jax.errors import printable
from scalingnote_jax.evaluate.report.sections import Section, sections
from scalingnote_jax.evaluate.report.summary import Fact, Kept, facts, lead


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
        curves: "train", "distill" and "refine" → records of their `metrics.jsonl`, if any.
        examples: of each {"query": text, "relevant": document ids, "results": system → [(document
            id, text, score)], best first}.
        config: the resolved config as plain values.
        command: the command line that made it; by default that of this process.
    """
    rows, kept = list(metrics["rows"]), Kept.of(metrics)
    split = config.get("eval", {}).get("split", "")
    count = f"{rows[0]['queries'] if rows else 0:,}"
    write_page(
        path,
        name=str(config.get("name", metrics["dataset"])),
        meta=f"{metrics['dataset']} · {' '.join([count, split]).strip()} queries · {today()}",
        lead=lead(rows, kept),
        facts=facts(rows, kept),
        alarms=[f"The student may not keep its recall: {a}." for a in metrics.get("alarms") or ()],
        sections=sections(metrics, curves, examples, config, command or this_command()),
    )


def write_page(
    path: str | Path,
    *,
    name: str,
    meta: str,
    lead: str,
    facts: Sequence[Fact],
    sections: Sequence[Section],
    alarms: Sequence[str] = (),
) -> None:
    """Writes a page of sections below a heading, as a whole or not at all. Alarms are sentences."""
    page = (
        _environment()
        .get_template("page.html")
        .render(name=name, meta=meta, lead=lead, facts=facts, sections=sections, alarms=alarms)
    )
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    # Whatever is in somebody's text must not cost them the report, nor turn what stands beside it
    partial.write_text(printable(page), encoding="utf-8")
    partial.replace(path)


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("scalingnote_jax.evaluate.report"),
        autoescape=True,  # queries and documents are anybody's text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def today() -> str:
    """The date in words."""
    date = datetime.date.today()
    return f"{date.day} {date:%B %Y}"


def this_command() -> str:
    """The command line of this process."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
