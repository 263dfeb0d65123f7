"""`scalingnote compare WORKDIR WORKDIR…`: prints what finished workdirs say beside each other, and
writes it as `compare.json` and `compare.html`. The comparing itself is in `compare.py`.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from scalingnote_jax.errors import bad_input, printable
from scalingnote_jax.evaluate.compare import compare
from scalingnote_jax.evaluate.report import write_comparison

SURE = 0.05


def main(parser: ArgumentParser, words: Sequence[str]) -> None:
    """The verb with its words."""
    parser.add_argument("workdirs", nargs="+", help="two or more that `scalingnote run` finished")
    parser.add_argument("--metric", default="nDCG@10", help="one of their --eval.metrics")
    parser.add_argument(
        "--out", default="compare.html", help="the page; the numbers go beside it as .json"
    )
    args = parser.parse_args(words)
    run(args.workdirs, args.metric, Path(args.out))


def run(workdirs: Sequence[str], metric: str, out: Path) -> None:
    """Compares, writes both files, each as a whole, and prints.

    Raises:
        UserError: fewer than two workdirs, one twice, an `out` that is no .html, or what `compare`
            refuses.
    """
    if len({Path(folder).resolve() for folder in workdirs}) < max(2, len(workdirs)):
        raise bad_input("compare", " ".join(workdirs), "two or more workdirs", "name each once")
    if out.suffix != ".html":
        raise bad_input("--out", str(out), "a file with the ending .html", "add it")
    found = compare(workdirs, metric)
    out.parent.mkdir(parents=True, exist_ok=True)
    numbers = out.with_suffix(".json")
    partial = numbers.with_name(numbers.name + ".partial")
    partial.write_text(json.dumps(found, indent=1) + "\n")
    partial.replace(numbers)
    write_comparison(out, found)
    screen = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    screen.print(matrix_table(found["collections"], metric))
    for line in difference_lines(found["comparisons"]):
        screen.print(printable(line), soft_wrap=True, markup=False)
    screen.print(f"{out}, {numbers}", soft_wrap=True, markup=False)


def matrix_table(rows: Sequence[Mapping[str, Any]], metric: str) -> Table:
    """Trained on × tested on by one metric, the systems one below the other; the collection that a
    row was trained on in bold.

    Args:
        rows: as "collections" in `metrics.json`, or in `compare.json` with their "workdir".
    """
    tested = list(dict.fromkeys(str(row["tested_on"]) for row in rows))
    several = any("workdir" in row for row in rows)
    cells: dict[tuple[str, ...], dict[str, Text]] = {}
    for row in rows:
        trained_on = row["trained_on"] or "–"
        workdir = [row["workdir"] if row["trained_on"] else "all"] if several else []
        line = cells.setdefault((str(row["system"]), trained_on, *workdir), {})
        low, high = row["intervals"][metric]
        value = f"{row['metrics'][metric]:.3f} ± {(high - low) / 2:.3f}"
        own = row["tested_on"] == row["trained_on"]
        line[str(row["tested_on"])] = Text(value, style="bold" if own else "")
    heads = ["system", "trained on", *(["workdir"] if several else []), *map(_shown, tested)]
    table = Table(*heads, title=f"{metric}: trained on × tested on")
    ordered = sorted(cells, key=lambda head: [head[0] for head in cells].index(head[0]))
    for at, head in enumerate(ordered):
        last = at + 1 == len(ordered) or ordered[at + 1][0] != head[0]
        values = (cells[head].get(name, "–") for name in tested)
        table.add_row(*map(_shown, head), *values, end_section=last)
    return table


def _shown(name: str) -> str:
    """A name from somewhere else, as a cell."""
    return escape(printable(name))


def difference_lines(comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each pair of rows."""
    return [
        f"{c['collection']}: {_words(c['a'])} − {_words(c['b'])}: {c['metric']} "
        f"{c['difference']:+.3f}, {'significant' if c['p_holm'] < SURE else 'not significant'} "
        f"(p {c['p_holm']:.2g} after Holm)"
        for c in comparisons
    ]


def _words(row: str) -> str:
    """ "runs/a: student" → "student of runs/a"."""
    workdir, _, system = row.rpartition(": ")
    return f"{system} of {workdir}"
