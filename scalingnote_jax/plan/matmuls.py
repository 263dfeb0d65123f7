"""What the matrix products of a compiled program cost: FLOPs, and bytes to and from memory.

XLA writes a product as `dot` on CPUs and as `convolution` on TPUs, also one with batch dimensions.
Additions, exponentials and the like are not counted: on a TPU another unit does them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from scalingnote_jax.plan.hlo import Array, Instruction, Module

_LABELS = re.compile(r"\bdim_labels=(\w+)_(\w+)->(\w+)")


@dataclass(frozen=True)
class Cost:
    """Of one call of a program on one device."""

    flops: int
    bytes: int  # each product reads its operands and writes its result once, where they are in HBM


def matmul_cost(module: Module) -> Cost:
    """Summed over all products, each as often as it runs."""
    flops = size = 0
    for computation, instruction, times in module.walk():
        if instruction.opcode not in ("dot", "convolution"):
            continue
        operands = [i.arrays[0] for i in computation.operands(instruction)]
        flops += times * _flops(instruction, operands)
        touched = [*operands, *instruction.arrays]
        size += times * sum(x.bytes for x in touched if x.in_hbm)
    return Cost(flops, size)


def _flops(instruction: Instruction, operands: list[Array]) -> int:
    if instruction.opcode == "dot":
        contracted = re.search(r"\blhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        axes = [int(a) for a in contracted[1].split(",") if a] if contracted else []
        depth = math.prod(operands[0].dims[a] for a in axes)
        return 2 * instruction.arrays[0].elements * depth
    return _convolution_flops(instruction, *operands)


def _convolution_flops(instruction: Instruction, lhs: Array, rhs: Array) -> int:
    """Two for each multiplication with an element that is there: padding and holes are free, which
    is how a batch dimension becomes a "window".
    """
    labels = _LABELS.search(instruction.attributes)
    assert labels, instruction.attributes
    left, right, result = labels.groups()
    out = instruction.arrays[0]
    spatial = [c for c in result if c.isdigit()]
    pairs = 1
    for axis, window in zip(spatial, _windows(instruction.attributes, len(spatial)), strict=True):
        pairs *= _pairs(
            lhs.dims[left.index(axis)], rhs.dims[right.index(axis)], out.dims[result.index(axis)],
            window,
        )  # fmt: skip
    depth = rhs.dims[right.index("i")]
    batch_groups = re.search(r"\bbatch_group_count=(\d+)", instruction.attributes)
    images = out.dims[result.index("b")] // (int(batch_groups[1]) if batch_groups else 1)
    return 2 * images * out.dims[result.index("f")] * depth * pairs


def _windows(attributes: str, count: int) -> list[dict[str, str]]:
    """Per spatial axis: "stride", "pad", "lhs_dilate" and the like, as written."""
    window = re.search(r"\bwindow=\{([^}]*)\}", attributes)
    words = dict(w.split("=") for w in window[1].split()) if window else {}
    return [{name: value.split("x")[i] for name, value in words.items()} for i in range(count)]


def _pairs(size: int, kernel: int, out: int, window: dict[str, str]) -> int:
    """Pairs (place of the result, place of the kernel) along an axis that meet an element."""
    stride, holes = int(window.get("stride", 1)), int(window.get("lhs_dilate", 1))
    low, step = int(window.get("pad", "0_0").split("_")[0]), int(window.get("rhs_dilate", 1))
    places = [k * step - low for k in range(kernel)]
    reach = size * holes
    return sum(
        1
        for o in range(out)
        for p in places
        if 0 <= (at := o * stride + p) < reach and at % holes == 0
    )
