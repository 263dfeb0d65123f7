"""The least time that a compiled program can take on its chips: what it must compute, move to and
from memory, and send, each over the chip's peak.

Optimistic on purpose: everything is taken to overlap perfectly, and every unit to run at its peak.
A real step is slower; a plan whose bound is too slow needs no try on hardware.
"""

from __future__ import annotations

from dataclasses import dataclass

from jax.sharding import Mesh

from scalingnote_jax.plan.collectives import Transfer, transfers
from scalingnote_jax.plan.hlo import Module
from scalingnote_jax.plan.matmuls import matmul_cost
from scalingnote_jax.plan.topology import Topology


@dataclass(frozen=True)
class Roofline:
    """Of one call of a program.

    Attributes:
        executed_flops: of the matrix products that the program has, on all devices together.
        transfers: its collectives.
        bounds_secs: "compute": those products; "hbm": arguments, results and the products' operands
            and results, each read or written once; "ici": collectives inside a slice, one after
            the other, each on all links that its group can use; "dcn": those between slices.
    """

    executed_flops: int
    transfers: list[Transfer]
    bounds_secs: dict[str, float]

    @property
    def secs(self) -> float:
        """The largest of the bounds."""
        return max(self.bounds_secs.values())


def roofline(
    module: Module, least_flops: int, moved_bytes: int, topology: Topology, mesh: Mesh
) -> Roofline:
    """The bounds of a program.

    Args:
        least_flops: of all devices, taken where the compiler found a way with fewer: no MFU is
            above one.
        moved_bytes: arguments and results, on one device.
        mesh: whose devices, in its order, are the program's partitions.
    """
    chip, per_chip = topology.chip, topology.devices_per_chip
    cost = matmul_cost(module)
    found = transfers(module, mesh.size, topology.num_slices)
    dcn_bytes = sum(t.bytes for t in found if t.dcn)
    per_host = topology.chips_per_host * per_chip
    bounds = {
        "compute": max(cost.flops, least_flops / mesh.size) * per_chip / chip.flops,
        "hbm": (cost.bytes + moved_bytes) * per_chip / chip.hbm_bytes_per_sec,
        "ici": sum(ici_secs(t, topology, mesh) for t in found if not t.dcn),
        "dcn": dcn_bytes * per_host / chip.dcn_bytes_per_sec,
    }
    return Roofline(cost.flops * mesh.size, found, bounds)


def ici_secs(transfer: Transfer, topology: Topology, mesh: Mesh) -> float:
    """Time of a collective whose group uses the links along every axis of the torus that it spans:
    both ways around where it closes the ring, otherwise one, which is what its ends have.

    Two devices of one chip are taken to exchange in no time.
    """
    devices = mesh.devices.reshape(-1)
    places = [devices[i].coords for i in transfer.group]
    links = 0
    for axis, along in enumerate(zip(*places, strict=True)):
        spans = len(set(along))
        if spans > 1:
            links += 2 if spans == topology.extents[axis] and topology.is_ring(axis) else 1
    if not links:
        return 0.0
    rate = links * topology.chip.link_bytes_per_sec / topology.devices_per_chip
    return transfer.bytes / rate
