"""The least time that a compiled program can take on its chips: what it must compute, move to and
from memory, and send, each over the chip's peak, and in which order.

Optimistic on purpose: every unit is taken to run at its peak. A real step is slower; a plan whose
bound is too slow needs no try on hardware.
"""

from __future__ import annotations

from dataclasses import dataclass

from jax.sharding import Mesh

from scalingnote_jax.plan.collectives import Transfer, transfers
from scalingnote_jax.plan.hlo import Module
from scalingnote_jax.plan.matmuls import total_flops
from scalingnote_jax.plan.schedule import Phase, Rates, ScheduledProgram
from scalingnote_jax.plan.topology import Topology


@dataclass(frozen=True)
class Roofline:
    """Of one call of a program.

    Attributes:
        executed_flops: of the matrix products that the program has, on all devices together.
        transfers: its collectives.
        synchronous: those of them that nothing overlaps.
        synchronous_secs: that these take.
        bounds_secs: "compute": those products; "hbm": what every instruction reads and writes;
            "ici": collectives inside a slice, one after the other, each on all links that its group
            can use; "dcn": those between slices. Each alone.
        phases: the same loop by loop.
        secs: at least, loop after loop.
        scheduled_secs: at least, in the order of the compiler's schedule.
    """

    executed_flops: int
    transfers: list[Transfer]
    synchronous: list[Transfer]
    synchronous_secs: float
    bounds_secs: dict[str, float]
    phases: list[Phase]
    secs: float
    scheduled_secs: float


def roofline(module: Module, least_flops: int, topology: Topology, mesh: Mesh) -> Roofline:
    """The bounds of a program.

    Args:
        least_flops: of all devices, taken where the compiler found a way with fewer: no MFU is
            above one.
        mesh: whose devices, in its order, are the program's partitions.
    """
    chip, per_chip = topology.chip, topology.devices_per_chip
    rates = Rates(
        chip.flops / per_chip,
        chip.hbm_bytes_per_sec / per_chip,
        lambda transfer: transfer_secs(transfer, topology, mesh),
        mesh.size,
        topology.num_slices,
    )
    schedule = ScheduledProgram(module, rates)
    phases = list(schedule.phases.values())
    executed = total_flops(module)
    model_secs = least_flops / mesh.size / rates.flops
    compute = max(executed / rates.flops, model_secs)
    least = max(schedule.least_secs, model_secs)
    found = transfers(module, mesh.size, topology.num_slices)
    sent = {"ici": 0.0, "dcn": 0.0}
    for each in found:
        sent["dcn" if each.dcn else "ici"] += transfer_secs(each, topology, mesh)
    return Roofline(
        executed_flops=executed * mesh.size,
        transfers=found,
        synchronous=schedule.synchronous,
        synchronous_secs=sum(phase.synchronous for phase in phases),
        bounds_secs={"compute": compute, "hbm": sum(phase.hbm for phase in phases), **sent},
        phases=phases,
        secs=least,
        scheduled_secs=max(schedule.secs, least),
    )


def transfer_secs(transfer: Transfer, topology: Topology, mesh: Mesh) -> float:
    """Time of a collective that has its network for itself. Inside a slice its group uses the links
    along every axis of the torus that it spans: both ways around where it closes the ring,
    otherwise one, which is what its ends have. Between slices each chip has its share of the host's
    network card.

    Two devices of one chip are taken to exchange in no time.
    """
    per_chip = topology.devices_per_chip
    if transfer.dcn:
        return transfer.bytes * per_chip / topology.chip.dcn_bytes_per_sec
    devices = mesh.devices.reshape(-1)
    places = [devices[i].coords for i in transfer.group]
    links = 0
    for axis, along in enumerate(zip(*places, strict=True)):
        spans = len(set(along))
        if spans > 1:
            links += 2 if spans == topology.extents[axis] and topology.is_ring(axis) else 1
    if not links:
        return 0.0
    rate = links * topology.chip.link_bytes_per_sec / per_chip
    return transfer.bytes / rate
