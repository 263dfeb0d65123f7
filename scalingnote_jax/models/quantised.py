"""Weights that are not trained, in one byte each or half of one: codes with a scale for each output
channel ("int8"), or for each block of 64 inputs of a channel ("nf4", the 4-bit NormalFloat of
QLoRA, Dettmers et al., arXiv 2305.14314, section 3). Codes are made and read by qwix.

Here is what shares a scale, and two products: for training, one that takes codes back to floats and
never holds more than its one weight whole, neither forward nor backward; for use, one of integers.
Not for which weights of a tower are stored so (`lora.py`), nor for their way from the disk
(`storage.py`).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal, TypeAlias, TypeGuard, get_args

import jax
import jax.numpy as jnp
import qwix
from jax import Array
from jax.sharding import Sharding
from jax.typing import DTypeLike

from scalingnote_jax.models.layers import ops
from scalingnote_jax.models.layers.params import Axes

Form: TypeAlias = Literal["int8", "nf4"]
BLOCK = 64  # inputs that share a scale in nf4, as in QLoRA
# One scale in a few thousand int8 codes is free; one in 64 is not, and nf4 is coarser than bfloat16
_SCALE_DTYPES = {"int8": jnp.float32, "nf4": jnp.bfloat16}


def is_form(base_dtype: str) -> TypeGuard[Form]:
    """Whether linear weights stored in `base_dtype` are codes and scales."""
    return base_dtype in get_args(Form)


def dtype_of_rest(base_dtype: str) -> str:
    """What norms, biases and tables are stored in beside such linear weights."""
    return "bfloat16" if is_form(base_dtype) else base_dtype


def tiles(shape: tuple[int, ...], inputs: tuple[int, ...], form: Form) -> tuple[int, ...]:
    """How many neighbours share a scale along each axis of a weight.

    Args:
        shape: of the weight, stacked or not.
        inputs: numbers of the axes that a product sums over: (1,) of [layers, E, H, K].
    """
    if form == "int8":
        return tuple(size if axis in inputs else 1 for axis, size in enumerate(shape))
    block = BLOCK if shape[inputs[-1]] % BLOCK == 0 else shape[inputs[-1]]
    return tuple(block if axis == inputs[-1] else 1 for axis in range(len(shape)))


def quantise(weight: Array, inputs: tuple[int, ...], form: Form) -> tuple[Array, Array]:
    """Codes and scales of a weight; may be jitted.

    Args:
        weight: any float array.
        inputs: as for `tiles`.

    Returns:
        codes, of the weight's shape: int8, or int4 for nf4 (the number of the value in its table of
        16, as bits: Orbax can store int4, and not the uint4 that qwix has);
        scales, the weight's shape divided by `tiles`: float32 for int8, bfloat16 for nf4.
    """
    shared = dict(enumerate(tiles(weight.shape, inputs, form)))
    made: Any = qwix.quantize(
        weight.astype(jnp.float32), form, tiled_axes=shared, scale_dtype=_SCALE_DTYPES[form]
    )
    codes = made.qvalue
    return (jax.lax.bitcast_convert_type(codes, jnp.int4) if form == "nf4" else codes), made.scale


def dequantise(codes: Array, scale: Array, dtype: DTypeLike = jnp.float32) -> Array:
    """The weight that `quantise` made these of, up to its error; codes show their form."""
    form: Form = "nf4" if codes.dtype == jnp.int4 else "int8"
    if form == "nf4":
        codes = jax.lax.bitcast_convert_type(codes, jnp.uint4)
    # In float32 until the end: a scale rounded to bfloat16 would cost int8 half of its precision.
    stored = qwix.QArray(codes, scale.astype(jnp.float32), qtype=form)
    return qwix.dequantize(stored).astype(dtype)


def scale_axes(axes: Axes, shape: tuple[int, ...], scales: tuple[int, ...]) -> Axes:
    """Logical axes of the scales [scales] of a weight [shape] with the logical axes `axes`."""

    def name(axis: str | None, size: int, count: int) -> str | None:
        return axis if count == size else "blocks" if count > 1 else None

    return tuple(map(name, axes, shape, scales))


Places: TypeAlias = tuple[Sharding, Sharding]


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def linear(
    x: Array,
    codes: Array,
    scale: Array,
    dtype: DTypeLike,
    inputs: int,
    places: Places | None,
    platform: str = "",
) -> Array:
    """As `ops.linear` with the weight of `codes` and `scale`, to which there is no gradient. The
    backward pass makes the weight anew: kept from the forward pass, all layers' would be there.

    Args:
        x: [..., *in], in `dtype`.
        places: where codes and scales lie while the weight is used, which makes them travel, and
            not what is made of them; None leaves it to the compiler.
        platform: as for `ops.linear`.
    """
    return ops.linear(x, _weight(codes, scale, dtype, places), dtype, inputs, platform=platform)


def integer_linear(x: Array, codes: Array, scale: Array, inputs: int) -> Array:
    """As `linear`, with `x` rounded to int8 as well: each token by a scale of its own, from its
    largest number. Several times as fast where a processor multiplies bytes; has no gradient.

    Args:
        x: [..., *in].
        codes: int8 [*in, *out]; scale: [1 …, *out], as `quantise` makes them.
    """
    fan_in = math.prod(codes.shape[:inputs])
    rows = qwix.quantize(x.reshape(-1, fan_in), "int8", channelwise_axes=(0,))
    sums = jnp.matmul(rows.qvalue, codes.reshape(fan_in, -1), preferred_element_type=jnp.int32)
    out = sums.astype(jnp.float32) * rows.scale * scale.reshape(1, -1)
    return out.reshape(*x.shape[: x.ndim - inputs], *codes.shape[inputs:])


def _weight(codes: Array, scale: Array, dtype: DTypeLike, places: Places | None) -> Array:
    if places:
        codes, scale = map(jax.lax.with_sharding_constraint, (codes, scale), places)
    return dequantise(codes, scale, dtype)


def _forward(
    x: Array,
    codes: Array,
    scale: Array,
    dtype: DTypeLike,
    inputs: int,
    places: Places | None,
    platform: str,
) -> tuple[Array, tuple[Array, Array]]:
    return linear(x, codes, scale, dtype, inputs, places, platform), (codes, scale)


def _backward(
    dtype: DTypeLike,
    inputs: int,
    places: Places | None,
    platform: str,
    kept: tuple[Array, Array],
    out: Array,
) -> tuple[Array, None, None]:
    weight = _weight(*kept, dtype, places)
    flipped = weight.transpose(*range(inputs, weight.ndim), *range(inputs))  # [*out, *in]
    to_x = ops.linear(out, flipped, dtype, weight.ndim - inputs, platform=platform)
    return to_x.astype(dtype), None, None


linear.defvjp(_forward, _backward)
