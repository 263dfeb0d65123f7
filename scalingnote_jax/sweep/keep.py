"""Which student? Of the cells of a sweep, what each student keeps of its teacher and what it costs,
and the smallest that keeps what was asked (`--keep "Recall@50 99%"`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from scalingnote_jax.errors import bad_input, printable
from scalingnote_jax.progress import console
from scalingnote_jax.sweep.run_cells import CellRun

FORM = re.compile(r"(\S+)\s+(\d+(?:\.\d+)?)\s*%")


@dataclass(frozen=True)
class Wanted:
    """What a student has to keep: `share` of the teacher's `metric`."""

    metric: str
    share: float

    @classmethod
    def parse(cls, text: str, metrics: Sequence[str]) -> Wanted:
        """
        Raises:
            UserError: another form, or a metric that the sweep's config does not have.
        """
        found = FORM.fullmatch(text.strip())
        if found is None or not 0 < float(found[2]) <= 1000:
            raise bad_input("--keep", repr(text), "METRIC SHARE%", 'such as "Recall@50 99%"')
        if found[1] not in metrics:
            known = f"one of {', '.join(metrics)}"
            raise bad_input("--keep", repr(found[1]), known, "or add it to --eval.metrics")
        return cls(found[1], float(found[2]) / 100)


def students(runs: Sequence[CellRun], metric: str) -> list[dict[str, Any]]:
    """Of each cell that is done {"cell", "kept", "interval", "ms", "params", "weights_mb"}, the
    fewest parameters first. Cells without a student and its teacher are left out.

    Args:
        metric: of which "kept" is student / teacher, and "interval" its 95 % interval.
    """
    found = []
    for each in runs:
        if each.status != "done":
            continue
        metrics = json.loads((each.folder / "eval" / "metrics.json").read_text())
        if metric not in metrics["retention"]:
            continue
        rows = [row for row in metrics["rows"] if row["system"] == metrics["shipped"]]
        row = next((r for r in rows if r["query_ms_p50"] is not None), rows[0])
        found.append(
            {
                "cell": each.cell.name,
                "kept": metrics["retention"][metric],
                "interval": metrics.get("retention_intervals", {}).get(metric),
                "ms": row["query_ms_p50"],
                "params": row["params_non_embedding"],
                "weights_mb": _megabytes(each.folder / "student"),
            }
        )
    return sorted(found, key=lambda one: (one["params"] or 0, one["weights_mb"]))


def smallest(found: Sequence[dict[str, Any]], wanted: Wanted) -> dict[str, Any] | None:
    """The first of `students` that keeps the share; None: none does."""
    return next((one for one in found if one["kept"] >= wanted.share), None)


def print_students(found: Sequence[dict[str, Any]], wanted: Wanted) -> None:
    """The table, and the answer in a sentence."""
    kept = f"{wanted.metric} kept"
    table = Table("cell", kept, "95 %", "p50 ms", "layers, M params", "checkpoint MB")
    for one in found:
        low_high = " to ".join(f"{x:.1%}" for x in one["interval"] or ())
        ms = "–" if one["ms"] is None else f"{one['ms']:.2f}"
        params = "–" if one["params"] is None else f"{one['params'] / 1e6:.1f}"
        numbers = f"{one['kept']:.1%}", low_high, ms, params, f"{one['weights_mb']:.0f}"
        table.add_row(Text(printable(one["cell"])), *numbers)
    console.print(table)
    asked, answer = f"{wanted.share:.4g} of {wanted.metric}", smallest(found, wanted)
    if answer is None:
        best = max(found, key=lambda one: one["kept"], default=None)
        near = f"; the nearest is {best['cell']} with {best['kept']:.1%}" if best else ""
        line = f"no student of the sweep keeps {asked}{near}"
    else:
        low = (answer["interval"] or [0])[0]
        sure = "surely" if low >= wanted.share else f"its interval begins at {low:.1%}"
        line = f"the smallest that keeps {asked}: {answer['cell']} ({answer['kept']:.1%}, {sure})"
    console.print(printable(line), markup=False, soft_wrap=True)


def _megabytes(folder: Path) -> float:
    """Of the newest checkpoint's weights on disk."""
    steps = [p for p in folder.glob("checkpoints/*") if p.name.isdigit()]
    newest = max(steps, key=lambda p: int(p.name), default=folder)
    files = (p for p in (newest / "params").rglob("*") if p.is_file())
    return sum(p.stat().st_size for p in files) / 1e6
