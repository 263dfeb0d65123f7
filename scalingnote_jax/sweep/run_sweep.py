"""The verb `sweep`: from the words of the command line to sweep.json and sweep.html."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from scalingnote_jax.config.load import apply_overrides
from scalingnote_jax.config.smoke import shrunk
from scalingnote_jax.config.values import to_json
from scalingnote_jax.errors import printable
from scalingnote_jax.evaluate.report.words import fixed, system_name
from scalingnote_jax.progress import console
from scalingnote_jax.startup import check_places, claim_workdir
from scalingnote_jax.sweep.keep import Wanted, print_students, students
from scalingnote_jax.sweep.points import summary
from scalingnote_jax.sweep.run_cells import CellRun, Start, run_cells, runs_of, start_process
from scalingnote_jax.sweep.spec import Sweep, load_sweep
from scalingnote_jax.sweep.sweep_page import write_sweep


def main(parser: argparse.ArgumentParser, words: list[str], start: Start = start_process) -> None:
    """Runs the verb.

    Args:
        start: as for `run_cells`.

    Raises:
        UserError: the sweep, or a cell's config, cannot be made.
        SystemExit: 1, when all is done and a cell has failed.
    """
    parser.add_argument("sweep", help="a Python file with get_sweep(), or its name in configs/")
    parser.add_argument("--workdir", help="default: runs/NAME of the sweep file")
    parser.add_argument("--overwrite", action="store_true", help="redo cells of another config")
    parser.add_argument("--smoke", action="store_true", help="the config's tiny size")
    parser.add_argument("--keep", help='names the smallest student, such as "Recall@50 99%%"')
    parser.epilog = "Any field of the sweep's config is overridden as --section.field=value."
    args, overrides = parser.parse_known_args(words)
    sweep = load_sweep(args.sweep)
    base = shrunk(sweep.config) if args.smoke else sweep.config
    sweep = replace(sweep, config=apply_overrides(base, overrides))
    wanted = Wanted.parse(args.keep, sweep.config.eval.metrics) if args.keep else None
    root = Path(args.workdir or Path("runs") / Path(args.sweep).stem)
    runs = runs_of(sweep, root, args.overwrite)
    for each in runs:
        check_places(sweep.config_with(each.cell.words), "run")
    claim_workdir(sweep.config, root, args.overwrite)
    for _ in run_cells(sweep, runs, start):
        found = _write(sweep, runs, root)
    _print(found)
    if wanted is not None:
        print_students(students(runs, wanted.metric), wanted)
    if any(each.status == "failed" for each in runs):
        raise SystemExit(1)


def _write(sweep: Sweep, runs: list[CellRun], root: Path) -> dict[str, Any]:
    """Writes sweep.json and sweep.html of what is done so far; returns the former."""
    found = summary(sweep, runs, root)
    partial = root / "sweep.json.partial"
    partial.write_text(json.dumps(found, indent=1) + "\n")
    partial.replace(root / "sweep.json")
    write_sweep(root / "sweep.html", found, to_json(sweep.config))
    return found


def _print(found: dict[str, Any]) -> None:
    metric = found["metrics"][0]
    for field in found["axes"]:
        table = Table(field, "system", "runs", metric, "95 %")
        for p in found["points"]:
            if (p["axis"], p["metric"]) == (field, metric):
                low_high = " to ".join(map(fixed, p["interval"] or ()))
                system = system_name(p["system"])
                table.add_row(
                    Text(printable(p["value"])), system, str(p["runs"]), fixed(p["mean"]), low_high
                )
        console.print(table)
