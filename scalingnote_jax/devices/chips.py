"""What a TPU chip can do: the peaks that the bounds of a plan, and the MFU of a run, are divided
by. Not for what is mounted where (`plan/topology.py`), nor for the memory that a program may use:
the compiler says that.

Peaks are those of Google Cloud's pages on TPU versions (cloud.google.com/tpu/docs/v4, v5e, v5p,
v6e, tpu7x); the rates of links and network cards, and which slices close into rings, also those of
"How to Scale Your Model" (jax-ml.github.io/scaling-book/tpus). All per chip, also where JAX shows a
chip as two devices, and also of the network card that the chips of a host share.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One chip.

    Attributes:
        name: as it stands before the colon of a topology.
        device_kind: as JAX names its devices.
        example: a small topology of such chips.
        flops: bfloat16 FLOP/s.
        hbm_bytes_per_sec: to and from its memory.
        link_bytes_per_sec: of one inter-chip link, one way.
        torus_axes: 3 (v4, v5p, tpu7x: cut in cubes of 4 × 4 × 4, whose faces are joined) or 2 (v5e,
            v6e: one torus of 16 × 16, whose parts have no way around).
        dcn_bytes_per_sec: one way, a chip's share of its host's network card.
    """

    name: str
    device_kind: str
    example: str
    flops: float
    hbm_bytes_per_sec: float
    link_bytes_per_sec: float
    torus_axes: int
    dcn_bytes_per_sec: float


CHIPS = (
    Chip("v4", "TPU v4", "v4:2x2x1", 275e12, 1228e9, 45e9, 3, 6.25e9),
    Chip("v5e", "TPU v5 lite", "v5e:2x2", 197e12, 819e9, 50e9, 2, 3.125e9),
    Chip("v5p", "TPU v5", "v5p:2x2x1", 459e12, 2765e9, 100e9, 3, 6.25e9),
    Chip("v6e", "TPU v6 lite", "v6e:2x2", 918e12, 1638e9, 100e9, 2, 12.5e9),
    Chip("tpu7x", "TPU7x", "tpu7x:2x2x1", 2307e12, 7380e9, 100e9, 3, 12.5e9),
)
BY_NAME = {chip.name: chip for chip in CHIPS}
BY_DEVICE_KIND = {chip.device_kind: chip for chip in CHIPS}
