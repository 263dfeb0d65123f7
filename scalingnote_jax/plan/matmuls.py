"""What the matrix products of a compiled program cost in FLOPs.

XLA writes a product as `dot` on CPUs and as `convolution` on TPUs, also one with batch dimensions;
the Splash kernel's are inside a call whose operands tell them. Additions, exponentials and the like
are not counted: on a TPU another unit does them. Not for memory: that is `traffic.py`.
"""

from __future__ import annotations

import math
import re

from scalingnote_jax.plan.hlo import Array, Computation, Instruction, Module

_LABELS = re.compile(r"\bdim_labels=(\w+)_(\w+)->(\w+)")
# Products of [L, K] with [K, L], or alike, in each of the kernel's phases: backward it computes the
# scores again, in both of its parts.
_SPLASH = re.compile(r"splash_m[hq]a_(fwd|dq|dkv)")
_SPLASH_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}


def total_flops(module: Module) -> int:
    """Of all products of a program on one device, each as often as it runs."""
    return sum(
        times * flops(computation, instruction) for computation, instruction, times in module.walk()
    )


def flops(computation: Computation, instruction: Instruction) -> int:
    """Of an instruction that is a product; 0 of any other."""
    if instruction.opcode in ("dot", "convolution"):
        return _flops(instruction, [i.arrays[0] for i in computation.operands(instruction)])
    phase = _SPLASH.search(instruction.attributes) if instruction.opcode == "custom-call" else None
    return _splash_flops(computation, instruction, phase[1]) if phase else 0


def _splash_flops(computation: Computation, instruction: Instruction, phase: str) -> int:
    """Of the whole L × L square, as `models/flops.py` counts it: the kernel leaves blocks out that
    are masked as a whole, which texts of one block do not have.
    """
    arrays = [x for i in computation.operands(instruction) for x in i.arrays]
    q, k, *_ = (x for x in arrays if x.dtype in ("bf16", "f32") and len(x.dims) >= 3)
    return 2 * _SPLASH_PRODUCTS[phase] * q.elements * k.dims[-2]


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
