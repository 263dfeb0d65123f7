"""The runs that a sweep consists of: which fields each sets, and its name. Runs nothing."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Any

from scalingnote_jax.config.values import field_values
from scalingnote_jax.errors import bad_input
from scalingnote_jax.hashing import content_hash
from scalingnote_jax.sweep.spec import Sweep

MODES = ("one at a time", "grid")
_LONGEST = 100  # characters of a folder's name, before a hash takes over


@dataclass(frozen=True)
class SweepCell:
    """One run.

    Attributes:
        values: of every field that the sweep varies.
        seed: of the run.
        changed: those of `values` that are not the config's own.
    """

    values: dict[str, Any]
    seed: int
    changed: dict[str, Any]

    @property
    def name(self) -> str:
        """Of its folder: what is changed, and the seed."""
        parts = [f"{field}={word(value)}" for field, value in self.changed.items()] or ["base"]
        text = re.sub(r"[^\w.=,+-]+", "-", ",".join([*parts, f"seed={self.seed}"]))
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}-{content_hash(parts)[:8]}"

    @property
    def words(self) -> list[str]:
        """The overrides that make the sweep's config this cell's."""
        changes = {**self.changed, "seed": self.seed}
        return [f"--{field}={word(value)}" for field, value in changes.items()]


def make_cells(sweep: Sweep) -> list[SweepCell]:
    """All cells, each once, seeds together; every one is a config that can be made.

    Raises:
        UserError: an axis without values, an unknown field, a value that it cannot take.
    """
    _check(sweep)
    base = _base(sweep)
    if sweep.mode == "grid":
        products = itertools.product(*sweep.axes.values())
        points = [dict(zip(sweep.axes, point, strict=True)) for point in products]
    else:
        points = [base | {f: value} for f, values in sweep.axes.items() for value in values]
    cells: dict[str, SweepCell] = {}
    for point in points:
        changed = {field: value for field, value in point.items() if value != base[field]}
        own = [SweepCell(point, seed, changed) for seed in sweep.seeds]
        if own[0].name not in cells:
            sweep.config_with(own[0].words)
        cells |= {cell.name: cell for cell in own}
    return list(cells.values())


def on_axis(sweep: Sweep, cell: SweepCell, field: str) -> bool:
    """Whether a cell counts for an axis: one at a time, only with all other fields as they are in
    the config; in a grid always, so that a point is the mean over the other axes.
    """
    return sweep.mode == "grid" or set(cell.changed) <= {field}


def word(value: Any) -> str:
    """A value as it is written on the command line."""
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _base(sweep: Sweep) -> dict[str, Any]:
    fields = field_values(sweep.config)
    for field in sweep.axes:
        if field not in fields:
            sweep.config_with([f"--{field}="])  # names the nearest field
    return {field: fields[field] for field in sweep.axes}


def _check(sweep: Sweep) -> None:
    if sweep.mode not in MODES:
        raise bad_input("mode of the sweep", repr(sweep.mode), f"one of {MODES}", "choose one")
    if not sweep.axes or not all(sweep.axes.values()):
        given = "no axis" if not sweep.axes else "an axis without values"
        raise bad_input("axes of the sweep", given, "fields with their values", "name some")
    if not sweep.seeds or "seed" in sweep.axes:
        given = "'seed' as an axis" if sweep.seeds else "none"
        raise bad_input("seeds of the sweep", given, "one or more in `seeds`", "name them there")
