"""The plan of one workload on one topology: compile, count, bound, and write down.

Its fields are a contract that scripts rely on (README); all bytes, FLOPs and rates are per chip or
of all chips as their names say, also where JAX shows a chip as two devices.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
from jax.sharding import Mesh

from scalingnote_jax.config import EncodeConfig, MeshConfig, TowersConfig, TrainConfig
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.devices.sharding import total_bytes_per_device
from scalingnote_jax.devices.tpu_flags import flags_of
from scalingnote_jax.models.flops import Flops, step_flops, tower_flops
from scalingnote_jax.models.pair import Towers
from scalingnote_jax.plan.collectives import summed
from scalingnote_jax.plan.compile import Compiled, batch_shapes, compile_program, lower_encode
from scalingnote_jax.plan.roofline import Roofline, roofline
from scalingnote_jax.plan.topology import Topology, available_bytes
from scalingnote_jax.train.prepare import Prepared, check_batch
from scalingnote_jax.train.stage1 import program
from scalingnote_jax.vectors.encode_batches import rows_of

Plan = dict[str, Any]
ENCODE_SPEEDS = ("bounds_secs", "left_synchronous", "step_secs_range", "mfu_bound", "mfu_range")


@dataclass(frozen=True)
class Workload:
    """What a plan is of: a step of stage 1, and `encode` with its document tower.

    Attributes:
        teacher: both towers of stage 1.
        train: its step.
        encode: how documents are encoded.
        mesh: what both run on.
        seed: of the run.
    """

    teacher: TowersConfig
    train: TrainConfig
    encode: EncodeConfig
    mesh: MeshConfig
    seed: int

    def on_slices(self, topology: Topology) -> Workload:
        """The same, with as many slices in the mesh as the topology has."""
        return replace(self, mesh=replace(self.mesh, slice=topology.num_slices))


def make_plan(workload: Workload, topology: Topology, pairs: int = 0) -> Plan:
    """Compiles the step of stage 1 and says what it needs and how fast it can be at most.

    Args:
        pairs: training pairs in an epoch, for the hours; 0 where they are not known.

    Raises:
        UserError: a mesh or a batch that cannot be split over the topology.
    """
    teacher, train = workload.teacher, workload.train
    mesh = mesh_lib.make_mesh(workload.mesh, topology.devices)
    check_batch("train", train, mesh)
    # The length of the schedule changes nothing of the step.
    towers, _, prepared, step = program(train, teacher, workload.seed, mesh, 1)
    jitted: Any = step
    flags = flags_of(topology.chip.name)
    lowered = jitted.lower(prepared.abstract, batch_shapes(train, teacher))
    compiled = compile_program(lowered, flags)
    flops = step_flops(train, towers, prepared.abstract.params)
    plan: Plan = {
        "topology": topology.name,
        "slices": topology.num_slices,
        "chips": topology.num_chips,
        "devices_per_chip": topology.devices_per_chip,
        "mesh": dict(mesh.shape),
        "remat": teacher.doc.remat,
        "global_batch": train.batch_size,
        "fits": compiled.module is not None,
        "refusal": compiled.refusal,
        "compile_secs": round(compiled.secs, 1),
        "compiler_flags": flags,
        "hbm_bytes_per_chip": _memory(compiled, prepared, topology),
        "checkpoint_bytes": _checkpoint_bytes(prepared),
    }
    line = _roofline(compiled, flops, topology, mesh)
    return plan | _speed(flops, line, topology, mesh, train.batch_size, pairs)


def plan_encode(workload: Workload, topology: Topology) -> Plan:
    """The same for `encode`: the document tower, forward only, by the batch of `encode`."""
    mesh = mesh_lib.make_mesh(workload.mesh, topology.devices)
    tower, shards = Towers(workload.teacher).doc, mesh_lib.batch_shards(mesh)
    size = -(-rows_of(workload.encode.batch_size, mesh) // shards) * shards  # as the encoder does
    compiled = compile_program(lower_encode(tower, mesh, size), flags_of(topology.chip.name))
    flops = tower_flops(tower, size)
    line = _roofline(compiled, flops, topology, mesh)
    speed = _speed(flops, line, topology, mesh, size, 0)
    return {
        "batch": size,
        "fits": compiled.module is not None,
        "compile_secs": round(compiled.secs, 1),
        "total_bytes_per_chip": compiled.total_bytes * topology.devices_per_chip,
        **{name: speed[name] for name in ENCODE_SPEEDS},
        "docs_per_sec": speed["pairs_per_sec"],
    }


def _roofline(compiled: Compiled, flops: Flops, topology: Topology, mesh: Mesh) -> Roofline | None:
    if compiled.module is None:
        return None
    return roofline(compiled.module, flops.model, topology, mesh)


def _checkpoint_bytes(prepared: Prepared) -> int:
    """Of the whole state, which every checkpoint holds once."""
    sizes = (x.size * jax.dtypes.itemsize_bits(x.dtype) for x in jax.tree.leaves(prepared.abstract))
    return sum(sizes) // 8


def _memory(compiled: Compiled, prepared: Prepared, topology: Topology) -> dict[str, int]:
    abstract, spread = prepared.abstract, prepared.shardings
    weights = total_bytes_per_device(
        abstract.params | abstract.frozen, spread.params | spread.frozen
    )
    moments = total_bytes_per_device(abstract.opt_state, spread.opt_state)
    per_device = {
        "params": weights,
        "moments": moments,
        # Where it does not fit, the compiler names the sum alone
        "temporaries": compiled.temporary_bytes or max(compiled.total_bytes - weights - moments, 0),
        "total": compiled.total_bytes,
        "available": available_bytes(topology),
    }
    return {kind: size * topology.devices_per_chip for kind, size in per_device.items()}


def _speed(
    flops: Flops, line: Roofline | None, topology: Topology, mesh: Mesh, batch: int, pairs: int
) -> Plan:
    if line is None:
        return _no_speed(flops, pairs)
    secs, peak = line.secs, topology.chip.flops * topology.num_chips
    slowest = line.scheduled_secs
    hours = pairs / batch * secs / 3600 if pairs else None
    return {
        "flops_per_step": flops.model,
        "flops": {
            "model": flops.model,
            "recomputed": flops.again,
            "compiled": line.executed_flops,
        },
        "collectives": summed(line.transfers, dict(mesh.shape)),
        "left_synchronous": {
            "count": sum(t.times for t in line.synchronous),
            "bytes": sum(t.bytes for t in line.synchronous),
            "secs": line.synchronous_secs,
            "collectives": summed(line.synchronous, dict(mesh.shape)),
        },
        "bounds_secs": line.bounds_secs,
        "phases": [asdict(phase) | {"secs": phase.secs} for phase in line.phases],
        "step_secs": secs,
        "step_secs_range": [secs, slowest],
        "mfu_bound": flops.model / (secs * peak),
        "mfu_range": [flops.model / (slowest * peak), flops.model / (secs * peak)],
        "pairs_per_sec": batch / secs,
        "pairs_per_epoch": pairs or None,
        "hours_per_epoch": hours,
        "chip_hours_per_epoch": hours and hours * topology.num_chips,
    }


def _no_speed(flops: Flops, pairs: int) -> Plan:
    """Of what does not fit: the same fields."""
    unknown = (
        "left_synchronous", "bounds_secs", "phases", "step_secs", "step_secs_range", "mfu_bound",
        "mfu_range", "pairs_per_sec", "hours_per_epoch", "chip_hours_per_epoch",
    )  # fmt: skip
    return {
        "flops_per_step": flops.model,
        "flops": {"model": flops.model, "recomputed": flops.again, "compiled": None},
        "collectives": [],
        "pairs_per_epoch": pairs or None,
        **dict.fromkeys(unknown),
    }
