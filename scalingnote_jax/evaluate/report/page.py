"""Writes `report.html`: what the sections hold, drawn by the templates beside this file."""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from scalingnote_jax.evaluate.report.sections import sections
from scalingnote_jax.evaluate.report.summary import facts, lead


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
    rows = list(metrics["rows"])
    retention = dict(metrics.get("retention") or {})
    split = config.get("eval", {}).get("split", "")
    count = f"{rows[0]['queries'] if rows else 0:,}"
    today = datetime.date.today()
    date = f"{today.day} {today:%B %Y}"
    page = (
        _environment()
        .get_template("page.html")
        .render(
            name=str(config.get("name", metrics["dataset"])),
            meta=f"{metrics['dataset']} · {' '.join([count, split]).strip()} queries · {date}",
            lead=lead(rows, retention),
            facts=facts(rows, retention),
            sections=sections(metrics, curves, examples, config, command or _this_command()),
        )
    )
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    # A lone surrogate in somebody's text must not cost them the report.
    partial.write_text(page, encoding="utf-8", errors="replace")
    partial.replace(path)


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("scalingnote_jax.evaluate.report"),
        autoescape=True,  # queries and documents are anybody's text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _this_command() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
