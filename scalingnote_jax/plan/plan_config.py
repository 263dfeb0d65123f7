"""The `plan` verb: from its words to the tables and the file."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from scalingnote_jax.config import Config
from scalingnote_jax.errors import bad_input
from scalingnote_jax.plan.make_plan import Plan, make_plan, on_slices, plan_encode
from scalingnote_jax.plan.mesh_search import search
from scalingnote_jax.plan.plan_table import show, show_search, write
from scalingnote_jax.plan.topology import Topology, describe
from scalingnote_jax.progress import progress, say


@dataclass(frozen=True)
class Wish:
    """What the command line asks for.

    Attributes:
        topology: of one slice.
        slices: how many.
        pairs: training pairs in an epoch; 0 where they are not known.
        search: whether to look for the best mesh, remat and batch size.
        batches: sizes that the search tries; () keeps the config's.
        compiles: the most that the search compiles.
    """

    topology: str
    slices: int = 1
    pairs: int = 0
    search: bool = False
    batches: tuple[int, ...] = ()
    compiles: int = 6


def run(config: Config, wish: Wish, workdir: Path) -> Plan:
    """Plans, prints and writes.

    Raises:
        UserError: no such topology, a mesh or batch that cannot be split, or nothing that fits
            among what a search tried.
    """
    topology = describe(wish.topology, wish.slices)
    config = on_slices(config, topology)
    out = Console(width=None if sys.stdout.isatty() else 120)
    if wish.search:
        plan = _searched(config, topology, wish, out)
    else:
        plan = _planned(config, topology, wish)
    show(plan, out)
    say(f"plan: {write(plan, workdir / 'plan')}; every speed is a bound, not a measurement")
    return plan


def _planned(config: Config, topology: Topology, wish: Wish) -> Plan:
    with progress("plan", total=2, unit="compiles") as bar:
        plan = make_plan(config, topology, wish.pairs)
        bar.advance(1)
        plan["encode"] = plan_encode(config, topology)
        bar.advance(1)
    return plan


def _searched(config: Config, topology: Topology, wish: Wish, out: Console) -> Plan:
    best, rows = search(config, topology, wish.batches, wish.compiles, wish.pairs)
    show_search(rows, out)
    if best is None:
        raise bad_input(
            f"--topology {topology.name}",
            f"none of {len(rows)} combinations fits",
            "one that does",
            "take a larger slice, smaller --batches, or more --compiles",
        )
    return best | {"search": rows}
