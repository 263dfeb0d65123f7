"""A plan as a person reads it, and as a file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from scalingnote_jax.plan.make_plan import Plan

GIB = 2**30
COSTS = ("hours", "chip_hours", "price")


def write_plan(plan: Plan, folder: Path) -> Path:
    """`plan/<topology>.json` below a workdir, replaced whole."""
    folder.mkdir(parents=True, exist_ok=True)
    several = f"-{plan['slices']}-slices" if plan["slices"] > 1 else ""
    path = folder / f"{plan['topology']}{several}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(plan, indent=1) + "\n")
    partial.replace(path)
    return path


def show_plan(plan: Plan, out: Console) -> None:
    """The whole plan as tables."""
    mesh = _mesh(plan)
    several = f"{plan['slices']} slices of " if plan["slices"] > 1 else ""
    title = f"{several}{plan['topology']}: {plan['chips']} chips, {mesh}"
    table = Table("", "", title=title, show_header=False, min_width=60)
    for name, value in _rows(plan):
        table.add_row(name, value)
    out.print(table)
    if costs := plan.get("project"):
        show_project(costs, out)
    if plan["collectives"]:
        sent = Table("sent by a device", "along", "network", "GiB", "times", title="collectives")
        for row in plan["collectives"]:
            if row["bytes"] >= 2**20:
                size = f"{row['bytes'] / GIB:.3f}"
                sent.add_row(row["kind"], row["axis"], row["network"], size, str(row["count"]))
        out.print(sent)


def show_project(costs: Plan, out: Console) -> None:
    """What every step costs, at best and by the compiled schedule, and what stays on disk."""
    table = Table("step", "of", "hours", "chip-hours", "price", title="the project, at best")
    for row in costs["steps"]:
        amount = f"{row['amount']:,.0f} {row['unit']}" if row["amount"] else "not known"
        table.add_row(row["step"], amount, *(_range(row[key]) for key in COSTS))
    table.add_row("together", "", *(_range(costs["total"].get(key)) for key in COSTS))
    out.print(table)
    disk = costs["disk"]
    for kind in ("vector", "teacher_query", "checkpoint"):
        if size := disk[f"{kind}_bytes"]:
            out.print(f"{kind.replace('_', ' ')}s on disk: {size / GIB:,.1f} GiB")
    out.print(f"vectors are written at up to {disk['vector_bytes_per_sec'] / 2**20:,.0f} MiB/s")


def _range(values: list[float] | None) -> str:
    if not values:
        return ""
    texts = [f"{x:,.0f}" if x >= 100 else f"{x:.3g}" for x in values]
    return texts[0] if texts[0] == texts[1] else " to ".join(texts)


def _rows(plan: Plan) -> list[tuple[str, str]]:
    memory = plan["hbm_bytes_per_chip"]
    kinds = ", ".join(f"{memory[k] / GIB:.2f} {k}" for k in ("params", "moments", "temporaries"))
    rows = [
        ("batch, remat", f"{plan['global_batch']:,} pairs, {plan['remat']}"),
        ("fits", "yes" if plan["fits"] else f"no: {plan['refusal']}"),
        ("GiB a chip", f"{memory['total'] / GIB:.2f} of {memory['available'] / GIB:.2f}: {kinds}"),
        ("compiled in", f"{plan['compile_secs']:.0f} s"),
    ]
    if not plan["fits"]:
        return rows
    flops, bounds = plan["flops"], plan["bounds_secs"]
    rows += [
        (
            "PFLOP a step",
            f"{flops['model'] / 1e15:.2f} of the model, {flops['recomputed'] / 1e15:.2f} again; "
            f"{flops['compiled'] / 1e15:.2f} in the program",
        ),
        ("bounds, ms", ", ".join(f"{name} {1e3 * s:.1f}" for name, s in bounds.items())),
        ("left synchronous", _left_synchronous(plan["left_synchronous"])),
        (
            "a step, at least",
            " to ".join(f"{1e3 * s:.1f}" for s in plan["step_secs_range"]) + " ms",
        ),
        ("pairs/s, at best", f"{plan['pairs_per_sec']:,.0f}"),
        ("MFU, at best", " to ".join(f"{share:.1%}" for share in plan["mfu_range"])),
    ]
    if plan["hours_per_epoch"]:
        cost = f"{plan['hours_per_epoch']:.2f} h, {plan['chip_hours_per_epoch']:.1f} chip-hours"
        rows.append(("an epoch, at best", cost))
    if encode := plan.get("encode"):
        speed = f"{encode['docs_per_sec']:,.0f} documents/s at best" if encode["fits"] else "no"
        rows.append((f"encode, batch {encode['batch']:,}", speed))
    return rows


def _left_synchronous(left: Plan) -> str:
    size = f"{left['bytes'] / GIB:.3f} GiB, {1e3 * left['secs']:.1f} ms"
    return f"{left['count']} collectives, {size}" if left["count"] else "none"


def _mesh(plan: Plan) -> str:
    return " × ".join(f"{axis} {size}" for axis, size in plan["mesh"].items())


def show_search(rows: list[Plan], out: Console) -> None:
    """What a search compiled, the best first, and how many combinations it left out and why."""
    table = Table("mesh", "remat", "batch", "GiB a chip", "MFU", "pairs/s", title="search")
    for row in rows:
        if row["fits"] is None:
            continue
        speed = row["pairs_per_sec"]
        table.add_row(
            " × ".join(str(size) for size in row["mesh"].values()),
            row["remat"],
            f"{row['global_batch']:,}",
            f"{row['total_bytes_per_chip'] / GIB:.2f}",
            f"{row['mfu_bound']:.1%}" if speed else "–",
            f"{speed:,.0f}" if speed else row["verdict"],
        )
    out.print(table)
    others = Counter(row["verdict"] for row in rows if row["fits"] is None)
    for verdict, count in others.most_common():
        out.print(f"{count} {verdict}")
