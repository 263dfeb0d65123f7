"""Tries meshes, remat policies and batch sizes, and ranks those that fit by pairs per second.

A compile takes a minute or more, so most candidates are decided on paper: those that
`sharding.RULES` refuse, and those whose weights and activations alone are far beyond the memory.
The rest are compiled in the order of what they promise, first the one that needs least memory among
equals, then those of them that send less. What was not compiled is listed as well, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import jax
import jax.numpy as jnp

from scalingnote_jax.config import BertShape, DecoderShape, MeshConfig, OptimConfig, TowerConfig
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.devices.sharding import partition_spec
from scalingnote_jax.errors import UserError
from scalingnote_jax.models.flops import step_flops
from scalingnote_jax.models.layers.params import Flat
from scalingnote_jax.models.pair import Towers
from scalingnote_jax.models.tower import TowerDef
from scalingnote_jax.plan.make_plan import Plan, Workload, make_plan
from scalingnote_jax.plan.topology import Topology, available_bytes
from scalingnote_jax.progress import progress
from scalingnote_jax.train.state import split_frozen

REMAT: tuple[Literal["full", "dots", "none"], ...] = ("full", "dots", "none")
# XLA scatters a reduced gradient only where every device's part fills whole tiles of bfloat16;
# otherwise it reduces all of it on all of them.
TILE_ROWS = 16
ABOUT = 1.02  # a factor between two bounds that says nothing


@dataclass(frozen=True)
class Candidate:
    """A combination of mesh, remat and batch size, with what is known of it on paper.

    Attributes:
        needed_bytes: of one device, at least: what is alive for a moment only is left out.
        secs: of a step, at least.
        sent_secs: of that, what is sent, which breaks ties.
    """

    workload: Workload
    mesh: dict[str, int]
    remat: str
    needed_bytes: float
    secs: float
    sent_secs: float

    @property
    def secs_per_pair(self) -> float:
        """At least."""
        return self.secs / self.workload.train.batch_size

    @property
    def sent_per_pair(self) -> float:
        """Seconds, at least."""
        return self.sent_secs / self.workload.train.batch_size

    @property
    def order(self) -> tuple[int, float]:
        """The fastest first; of those that are about as fast, the one most likely to fit."""
        return round(math.log(self.secs_per_pair) / math.log(ABOUT)), self.needed_bytes


def search_meshes(
    workload: Workload, topology: Topology, batches: tuple[int, ...], compiles: int, pairs: int
) -> tuple[Plan | None, list[Plan]]:
    """Compiles the most promising candidates.

    Args:
        batches: global batch sizes to try; () keeps the workload's.
        compiles: at most so many.
        pairs: as for `make_plan`.

    Returns:
        The best plan, None if nothing fits; and a row per candidate, the best first.
    """
    candidates, rows = [], []
    limit = available_bytes(topology)
    for variant, mesh in _variants(workload, topology, batches):
        try:
            candidate = _on_paper(variant, mesh, topology)
        except UserError as e:
            rows.append(_row(variant, mesh, "cannot be split", str(e)))
            continue
        if candidate.needed_bytes > limit:
            needs = f"at least {candidate.needed_bytes / 2**30:.1f} GiB a device"
            rows.append(_row(variant, mesh, "too large on paper", needs))
        else:
            candidates.append(candidate)
    candidates.sort(key=lambda candidate: candidate.order)
    plans, left = _compiled(candidates, topology, compiles, pairs)
    fit = sorted((p for p in plans if p["fits"]), key=_rank)
    tried = [_of_plan(p) for p in [*fit, *(p for p in plans if not p["fits"])]]
    return (fit[0] if fit else None), [*tried, *left, *rows]


def _compiled(
    candidates: list[Candidate], topology: Topology, compiles: int, pairs: int
) -> tuple[list[Plan], list[Plan]]:
    """Plans of the candidates that were worth it; and rows of the others, with the reason."""
    plans: list[Plan] = []
    left = []
    best = sent = math.inf  # seconds per pair of the best so far, and on paper what it sends
    refused: dict[str, float] = {}  # remat → what the smallest that did not fit needs on paper
    with progress("plan", total=compiles, unit="compiles") as bar:
        for each in candidates:
            as_fast = each.secs_per_pair * ABOUT >= best and each.sent_per_pair >= sent
            if as_fast or each.secs_per_pair >= best * ABOUT:
                left.append(_row(each.workload, each.mesh, "promises no more than the best"))
            elif each.needed_bytes >= refused.get(each.remat, math.inf):
                left.append(_row(each.workload, each.mesh, "needs more than one that did not fit"))
            elif len(plans) == compiles:
                left.append(_row(each.workload, each.mesh, "beyond --compiles"))
            else:
                plan = make_plan(each.workload, topology, pairs)
                plans.append(plan)
                if plan["fits"] and 1 / plan["pairs_per_sec"] <= best * ABOUT:
                    best, sent = 1 / plan["pairs_per_sec"], each.sent_per_pair
                elif not plan["fits"]:
                    refused[each.remat] = each.needed_bytes
                bar.advance(1)
                bar.note(f"({_told(plan)})")
    return plans, left


def _told(plan: Plan) -> str:
    speed = f"{plan['pairs_per_sec']:,.0f} pairs/s" if plan["fits"] else "does not fit"
    mesh = " × ".join(map(str, plan["mesh"].values()))
    return f"{mesh}, {plan['remat']}, {plan['global_batch']}: {speed}"


def _rank(plan: Plan) -> tuple[float, float]:
    return -plan["pairs_per_sec"], sum(plan["bounds_secs"].values())


def _variants(
    workload: Workload, topology: Topology, batches: tuple[int, ...]
) -> Iterator[tuple[Workload, dict[str, int]]]:
    devices, slices = len(topology.devices), topology.num_slices
    inside = devices // slices
    for fsdp in _divisors(inside):
        for tensor in _divisors(inside // fsdp):
            sizes = MeshConfig(
                slice=slices, data=inside // fsdp // tensor, fsdp=fsdp, tensor=tensor
            )
            for remat in REMAT:
                for batch in batches or (workload.train.batch_size,):
                    given = workload.teacher
                    query, doc = replace(given.query, remat=remat), replace(given.doc, remat=remat)
                    teacher = replace(given, query=query, doc=doc)
                    train = replace(workload.train, batch_size=batch)
                    variant = replace(workload, mesh=sizes, teacher=teacher, train=train)
                    yield variant, mesh_lib.mesh_sizes(sizes, devices)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _on_paper(workload: Workload, mesh: dict[str, int], topology: Topology) -> Candidate:
    """Lower bounds of memory and time.

    Raises:
        UserError: the mesh cannot split a weight, or the batch.
    """
    towers, train = Towers(workload.teacher), workload.train
    shapes, axes = towers.abstract()
    for path, x in shapes.items():
        partition_spec(path, x.shape, axes[path], mesh)
    shards = mesh["slice"] * mesh["data"] * mesh["fsdp"]
    size, group = train.batch_size, 1 + train.negatives_per_query
    parts = shards * train.accumulate * train.encode_chunks
    if size % parts:
        raise UserError(f"a batch of {size} does not split into {parts} parts")
    trained, frozen = split_frozen("teacher", shapes, towers.freeze(train.learn_temperature))
    rows = size // shards // train.accumulate // train.encode_chunks
    activations = max(
        _activations(towers.query, rows, mesh["tensor"]),
        _activations(towers.doc, rows * group, mesh["tensor"]),
    )
    state = _state_bytes(train.optim, trained, frozen) / (mesh["fsdp"] * mesh["tensor"])
    chip, per_chip = topology.chip, topology.devices_per_chip
    flops = step_flops(train, towers, trained).executed
    compute = flops * per_chip / len(topology.devices) / chip.flops
    links = 2 * chip.torus_axes * chip.link_bytes_per_sec / per_chip
    sent = _sent_bytes(towers, trained, frozen, mesh, rows, group) / links
    needed, secs = state + activations, max(compute, sent)
    return Candidate(workload, mesh, towers.doc.cfg.remat, needed, secs, sent)


def _state_bytes(optim: OptimConfig, trained: Flat, frozen: Flat) -> float:
    """Of all devices: weights as they are, and for the trained ones the gradient and the second
    moment in float32, and the first.
    """
    first = jnp.dtype(optim.moment_dtype).itemsize
    sizes = {path: math.prod(x.shape) for path, x in (trained | frozen).items()}
    bits = {path: jax.dtypes.itemsize_bits(x.dtype) for path, x in (trained | frozen).items()}
    weights = sum(sizes[path] * bits[path] for path in bits) / 8
    return weights + (4 + 4 + first) * sum(sizes[path] for path in trained)


def _sent_bytes(
    towers: Towers, trained: Flat, frozen: Flat, mesh: dict[str, int], rows: int, group: int
) -> float:
    """By one device: along fsdp the weights, gathered in bfloat16 for the forward and for the
    backward pass, and the gradients; along tensor two sums of hidden states a layer, forward, again
    and back.
    """
    learnt, fixed = (sum(math.prod(x.shape) for x in part.values()) for part in (trained, frozen))
    aligned = towers.doc.shape.hidden_size // mesh["fsdp"] % TILE_ROWS == 0
    gathers, reductions = 2 * (learnt + fixed), (1 if aligned else 2) * learnt
    total = 2 * (gathers + reductions) / mesh["tensor"] * (1 - 1 / mesh["fsdp"])
    for tower, count in ((towers.query, rows), (towers.doc, rows * group)):
        shape = tower.shape
        hidden = count * tower.cfg.text.max_tokens * shape.hidden_size * _matmul_bytes(tower.cfg)
        total += 2 * 2 * 3 * shape.num_layers * hidden * (1 - 1 / mesh["tensor"])
    return total


def _activations(tower: TowerDef, rows: int, tensor: int) -> float:
    """Bytes that the layers keep for the backward pass, at least: what goes into each, in float32;
    with "dots" the weights' products as well, in their own type; with "none" in float32, and the
    attention's weights.
    """
    shape, cfg = tower.shape, tower.cfg
    kept, products = 4.0 * shape.hidden_size, 2 * shape.hidden_size + _inner(tower) / tensor
    if cfg.remat == "dots":
        kept += _matmul_bytes(cfg) * products
    elif cfg.remat == "none":
        scores = shape.num_heads / tensor * cfg.text.max_tokens
        kept += 4 * products + _matmul_bytes(cfg) * scores
    return rows * cfg.text.max_tokens * shape.num_layers * kept


def _inner(tower: TowerDef) -> int:
    """Numbers of a token inside a layer that the tensor axis splits."""
    shape = tower.shape
    if isinstance(shape, DecoderShape):
        heads = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
        return heads + 2 * shape.intermediate_size
    gated = not isinstance(shape, BertShape)
    return 3 * shape.hidden_size + (1 + gated) * shape.intermediate_size


def _matmul_bytes(cfg: TowerConfig) -> int:
    return 2 if cfg.dtype == "bfloat16" else 4


def _row(workload: Workload, mesh: dict[str, int], verdict: str, reason: str = "") -> Plan:
    return {
        "mesh": mesh,
        "remat": workload.teacher.doc.remat,
        "global_batch": workload.train.batch_size,
        "fits": None,  # nobody asked the compiler
        "verdict": verdict,
        "reason": reason,
    }


def _of_plan(plan: Plan) -> Plan:
    names = ("mesh", "remat", "global_batch", "fits", "bounds_secs", "mfu_bound", "pairs_per_sec")
    row = {name: plan[name] for name in names}
    row["total_bytes_per_chip"] = plan["hbm_bytes_per_chip"]["total"]
    verdict = "fits" if plan["fits"] else "does not fit"
    return row | {"verdict": verdict, "reason": plan["refusal"]}
