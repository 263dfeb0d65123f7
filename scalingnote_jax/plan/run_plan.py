"""The `plan` verb: from what is asked for to the tables and the file."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from scalingnote_jax.config import MeshConfig
from scalingnote_jax.errors import bad_input
from scalingnote_jax.plan.make_plan import Plan, Workload, make_plan, plan_encode
from scalingnote_jax.plan.mesh_search import search_meshes
from scalingnote_jax.plan.plan_table import show_plan, show_search, write_plan
from scalingnote_jax.plan.project_cost import Amounts, Project, project_cost
from scalingnote_jax.plan.topology import Topology, describe_slices
from scalingnote_jax.progress import progress, say


@dataclass(frozen=True)
class PlanRequest:
    """What the command line asks for.

    Attributes:
        topology: of one slice.
        slices: how many.
        amounts: how much there is to do; where something is known, all steps are priced.
        search: whether to look for the best mesh, remat and batch size.
        batches: sizes that the search tries; () keeps the workload's.
        compiles: the most that the search compiles.
    """

    topology: str
    slices: int = 1
    amounts: Amounts = field(default_factory=Amounts)
    search: bool = False
    batches: tuple[int, ...] = ()
    compiles: int = 6


def run_plan(workload: Workload, project: Project, request: PlanRequest, workdir: Path) -> Plan:
    """Plans, prints and writes.

    Raises:
        UserError: no such topology, a mesh or batch that cannot be split, or nothing that fits
            among what a search tried.
    """
    topology = describe_slices(request.topology, request.slices)
    workload = workload.on_slices(topology)
    out = Console(width=None if sys.stdout.isatty() else 120)
    if request.search:
        plan = _searched(workload, topology, request, out)
    else:
        plan = _planned(workload, topology, request.amounts.pairs)
    if request.amounts.any and plan["fits"] and plan["encode"]["fits"]:
        costs = plan, plan["encode"], topology
        plan["project"] = project_cost(project, request.amounts, *costs)
    show_plan(plan, out)
    say(f"plan: {write_plan(plan, workdir / 'plan')}; every speed is a bound, not a measurement")
    return plan


def _planned(workload: Workload, topology: Topology, pairs: int) -> Plan:
    with progress("plan", total=2, unit="compiles") as bar:
        plan = make_plan(workload, topology, pairs)
        bar.advance(1)
        plan["encode"] = plan_encode(workload, topology)
        bar.advance(1)
    return plan


def _searched(workload: Workload, topology: Topology, request: PlanRequest, out: Console) -> Plan:
    given = request.batches, request.compiles, request.amounts.pairs
    best, rows = search_meshes(workload, topology, *given)
    show_search(rows, out)
    if best is None:
        raise bad_input(
            f"--topology {topology.name}",
            f"none of {len(rows)} combinations fits",
            "one that does",
            "take a larger slice, smaller --batches, or more --compiles",
        )
    if request.amounts.any:
        best["encode"] = plan_encode(replace(workload, mesh=MeshConfig(**best["mesh"])), topology)
    return best | {"search": rows}
