"""Which data a compiled program sends between devices: how much, along which mesh axis, and over
which network.

Bytes are those that one device sends in one call of the program, by the usual ring algorithms:
(n - 1) / n of the whole array for a gather, a scatter or an exchange among n devices, twice that
for an all-reduce, the array itself for a permutation.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from scalingnote_jax.plan.hlo import Computation, Instruction, Module

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_LISTED = re.compile(r"\breplica_groups=\{\{(.*?)\}\}")
_IOTA = re.compile(r"\breplica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_NAMED = re.compile(
    r"\breplica_groups=@?mesh\[([^\]]*)\]"
    r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{((?:'\w+',?)*)\}"
)
_PAIRS = re.compile(r"\bsource_target_pairs=\{(.*?\})\}")
_CHAIN = re.compile(r'\bchain_id="(\d+)"')
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_RENDEZVOUS = re.compile(r'_xla_host_transfer_rendezvous="([a-z\-]+)')


@dataclass(frozen=True)
class Transfer:
    """One collective, as often as it runs.

    Attributes:
        kind: one of `KINDS`.
        group: partition numbers that exchange with each other (one of the equal groups).
        bytes: sent by one device in one call of the program.
        times: how often it runs in that.
        dcn: whether it goes over the data-centre network by way of the hosts.
    """

    kind: str
    group: tuple[int, ...]
    bytes: int
    times: int
    dcn: bool = False


def transfers(module: Module, partitions: int, num_slices: int = 1) -> list[Transfer]:
    """All collectives of a program.

    Args:
        partitions: devices that the program runs on; with several slices those of all of them.
        num_slices: the program's text is then that of one slice, and `send` and `recv` through the
            host join it with the others.
    """
    found, seen = [], set()
    for computation, instruction, times in module.walk():
        transfer = transfer_of(computation, instruction, partitions, num_slices)
        # A gather that is overlapped with products is written again in each of them.
        chain = chain_of(instruction)
        if transfer is None or chain in seen:
            continue
        if chain:
            seen.add(chain)
        found.append(replace(transfer, bytes=times * transfer.bytes, times=times))
    return found


def chain_of(instruction: Instruction) -> str:
    """What the parts of a collective share that runs inside of several products; "" of others."""
    chain = _CHAIN.search(instruction.attributes)
    if not chain:
        return ""
    channel = _CHANNEL.search(instruction.attributes)
    return f"{kind_of(instruction)} {chain[1]} {channel[1] if channel else ''}"


def kind_of(instruction: Instruction) -> str:
    """One of `KINDS`; "" of what is no collective inside a slice."""
    kind = instruction.opcode.removesuffix("-start")
    return kind if kind in KINDS else ""


def transfer_of(
    computation: Computation, instruction: Instruction, partitions: int, num_slices: int
) -> Transfer | None:
    """What an instruction sends when it runs once; None where that is nothing."""
    found = None
    if kind := kind_of(instruction):
        found = _collective(kind, computation, instruction, partitions)
    elif instruction.opcode == "send" and "is_host_transfer=true" in instruction.attributes:
        found = _over_dcn(computation, instruction, partitions, num_slices)
    return found if found and len(found.group) > 1 and found.bytes else None


def _collective(
    kind: str, computation: Computation, instruction: Instruction, partitions: int
) -> Transfer:
    group = _group(instruction.attributes, partitions)
    n = len(group)
    inputs = sum(sum(x.bytes for x in i.arrays) for i in computation.operands(instruction))
    if kind == "all-reduce" and computation.name.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # a TPU's fusion of the reduction with taking one's part
    share = {
        "all-gather": (n - 1) * inputs,
        "all-reduce": 2 * (n - 1) * inputs // n,
        "reduce-scatter": (n - 1) * inputs // n,
        "all-to-all": (n - 1) * inputs // n,
        "collective-permute": inputs,
    }
    return Transfer(kind, group, share[kind], 1)


def _over_dcn(
    computation: Computation, instruction: Instruction, partitions: int, slices: int
) -> Transfer:
    named = _RENDEZVOUS.search(instruction.attributes)
    kind = named[1].rstrip("-") if named else "send"
    payload = computation.operands(instruction)[0].arrays[0].bytes
    # The hosts reduce: a device hands over its part once, whichever way the slices pass it on.
    group = tuple(range(0, partitions, partitions // max(slices, 1)))
    return Transfer(kind, group, payload, 1, dcn=True)


def _group(attributes: str, partitions: int) -> tuple[int, ...]:
    """One of the groups, as all are alike up to where they lie; of a permutation, source and target
    of the first pair that moves anything.
    """
    if pairs := _PAIRS.search(attributes):
        numbers = [[int(x) for x in p.split(",")] for p in re.findall(r"\{([\d,]+)\}", pairs[0])]
        return next((tuple(p) for p in numbers if p[0] != p[1]), (0,))
    if listed := _LISTED.search(attributes):
        return tuple(int(x) for x in listed[1].split("},{")[0].split(","))
    if iota := _IOTA.search(attributes):
        shape, dims = (_ints(iota[i]) for i in (1, 2))
        order = _ints(iota[3]) if iota[3] else range(len(dims))
        ids = np.arange(np.prod(dims)).reshape(dims).transpose(order).reshape(shape)
        return tuple(ids.reshape(-1, shape[-1])[0].tolist())
    if named := _NAMED.search(attributes):
        sizes = {n: int(s) for n, s in re.findall(r"'(\w+)'=(\d+)", named[1])}
        ids = np.arange(np.prod(list(sizes.values())))
        if named[2]:  # how the devices are laid out under those axes; else in their order
            dims = _ints(named[2])
            ids = ids.reshape(dims).transpose(_ints(named[3]) if named[3] else range(len(dims)))
        ids = ids.reshape(tuple(sizes.values()))
        inside = re.findall(r"'(\w+)'", named[4])
        where = tuple(slice(None) if name in inside else 0 for name in sizes)
        return tuple(ids[where].reshape(-1).tolist())
    if "replica_groups=" in attributes and "replica_groups={}" not in attributes:
        raise NotImplementedError(f"replica groups written as in {attributes!r}")
    return tuple(range(partitions))  # none are named: everybody


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(x) for x in text.split(","))


def axis_of(group: Sequence[int], mesh_shape: dict[str, int]) -> str:
    """The mesh axes along which the members of a group differ, "data+fsdp" where it is two.

    Args:
        group: partition numbers, in the order of the mesh.
        mesh_shape: axis → size, in that order.
    """
    places = np.unravel_index(np.asarray(group), tuple(mesh_shape.values()))
    return "+".join(
        axis for axis, place in zip(mesh_shape, places, strict=True) if len(set(place.tolist())) > 1
    )


def summed(found: list[Transfer], mesh_shape: dict[str, int]) -> list[dict[str, object]]:
    """Rows of kind, mesh axis, network, bytes and count, the largest first."""
    rows: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for t in found:
        row = rows[t.kind, axis_of(t.group, mesh_shape), "dcn" if t.dcn else "ici"]
        row[0] += t.bytes
        row[1] += t.times
    return [
        {"kind": kind, "axis": axis, "network": network, "bytes": size, "count": count}
        for (kind, axis, network), (size, count) in sorted(rows.items(), key=lambda r: -r[1][0])
    ]
