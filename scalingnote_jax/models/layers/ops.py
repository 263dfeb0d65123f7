"""The arithmetic that all architectures share. Softmax and rotation are in float32. Not for norms:
see `activations.py`.

Shapes: B rows, L tokens, E hidden, H heads, K head size.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from jax.typing import DTypeLike

# Added to the score of a key that must not be seen. Finite, so that a row with nothing to see gives
# a mean over everything and not NaN; large enough that exp() of a masked score is exactly zero.
_UNSEEN = -1e9


def look_up(table: Array, tokens: Array, rows: Sharding | None = None) -> Array:
    """Rows of `table` [V, E] for `tokens` [B, L] → [B, L, E].

    An id outside of the table gives NaN, which stops a run; clipped, it would be a wrong vector.

    Args:
        rows: on the mesh of `mesh.py`, where the rows of the batch lie. A table split over E is
            then not gathered: each device looks up its part of E for the tokens of all devices that
            share the table, and hands the rows over. XLA, left to itself, copies the whole result
            to every device.
    """
    if not isinstance(rows, NamedSharding) or rows.mesh.shape["fsdp"] == 1:
        return jnp.take(table, tokens, axis=0, mode="fill")

    def exchange(table: Array, tokens: Array) -> Array:
        everyone = jax.lax.all_gather(tokens, "fsdp", axis=0, tiled=True)
        everyone -= jax.lax.axis_index("tensor") * table.shape[0]  # the table is split over V too
        here = (everyone >= 0) & (everyone < table.shape[0])
        x = jnp.where(here[..., None], jnp.take(table, everyone, axis=0, mode="clip"), 0.0)
        found = jax.lax.psum(here.astype(jnp.int32), "tensor") > 0
        x = jnp.where(found[..., None], jax.lax.psum(x, "tensor"), jnp.nan)
        return jax.lax.all_to_all(x, "fsdp", split_axis=0, concat_axis=2, tiled=True)

    split = PartitionSpec("tensor", "fsdp")
    return jax.shard_map(
        exchange, mesh=rows.mesh, in_specs=(split, rows.spec), out_specs=rows.spec
    )(table, tokens)


def platform_of(rows: Sharding | None) -> str:
    """ "cpu", "tpu" or "gpu", of the mesh that `rows` lies on; "" if it is on none. Of devices that
    are compiled for and are not there, too.
    """
    if isinstance(rows, NamedSharding) and isinstance(rows.mesh, Mesh):
        return rows.mesh.devices.flat[0].platform
    return ""


def linear(
    x: Array, weight: Array, dtype: DTypeLike, inputs: int = 1, *, platform: str = ""
) -> Array:
    """`x` times `weight` over the last `inputs` axes of x, the first of the weight; float32 out.

    Everything else is folded into two axes first. With the tokens on two axes XLA's CPU backend
    copies each operand of the weight's gradient into another layout; folded, a training step of a
    decoder takes about a fifth less time.

    Args:
        x: [..., *in].
        weight: [*in, *out].
        dtype: what both are cast to. The result is cast back only after the product, so that the
            products of the backward pass have operands of this type as well.
        platform: what computes it, as `platform_of` says.
    """
    fan_in = int(np.prod(weight.shape[:inputs]))
    rows, columns = x.reshape(-1, fan_in), weight.reshape(fan_in, -1)
    if platform == "cpu" and jnp.dtype(dtype) == jnp.bfloat16:
        out = _bfloat16_on_cpu(rows.astype(jnp.float32), columns)
    else:
        out = (rows.astype(dtype) @ columns.astype(dtype)).astype(jnp.float32)
    return out.reshape(*x.shape[: x.ndim - inputs], *weight.shape[inputs:])


@jax.custom_vjp
def _bfloat16_on_cpu(x: Array, weight: Array) -> Array:
    """[n, in] times [in, out], operands rounded to bfloat16, sums and result in float32; so are the
    products of the backward pass.

    Of these forms alone XLA's CPU backend makes calls of its library, and that uses a processor's
    own bfloat16 (AMX): five times the speed of float32. Others it computes in float32.
    """
    return _bfloat16_product(x, weight, ((1,), (0,)))


def _bfloat16_product(a: Array, b: Array, over: tuple[tuple[int], tuple[int]]) -> Array:
    operands = (a.astype(jnp.bfloat16), b.astype(jnp.bfloat16))
    return jax.lax.dot_general(*operands, (over, ((), ())), preferred_element_type=jnp.float32)


def _bfloat16_forward(x: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    return _bfloat16_on_cpu(x, weight), (x.astype(jnp.bfloat16), weight)


def _bfloat16_backward(kept: tuple[Array, Array], out: Array) -> tuple[Array, Array]:
    x, weight = kept
    to_x = _bfloat16_product(out, weight, ((1,), (1,)))
    # A sum over the first axis of both is none of those forms, and a transpose in front of the
    # product becomes such a sum. In three axes XLA leaves it alone.
    part = math.gcd(x.shape[1], 16)
    flipped = x.reshape(len(x), -1, part).transpose(1, 2, 0).reshape(x.shape[1], -1)
    return to_x, _bfloat16_product(flipped, out, ((1,), (0,))).astype(weight.dtype)


_bfloat16_on_cpu.defvjp(_bfloat16_forward, _bfloat16_backward)


def dropout(x: Array, rate: float, keys: Array | None, place: int) -> Array:
    """`x` [B, L, E] with a share `rate` of its numbers set to zero, the others scaled up.

    Each row draws from a key of its own, so what is dropped depends neither on the devices nor on
    the chunks that a batch is encoded in.

    Args:
        keys: one per row [B], of this layer; None changes nothing, as outside of training.
        place: tells the calls of a layer apart.
    """
    if keys is None or not rate:
        return x

    def draw(key: Array) -> Array:
        return jax.random.bernoulli(jax.random.fold_in(key, place), 1.0 - rate, x.shape[1:])

    return jnp.where(jax.vmap(draw)(keys), x / (1.0 - rate), 0.0)


def rotation(length: int, frequencies: np.ndarray) -> tuple[Array, Array]:
    """Cosines and signed sines [L, 1, K] of rotary positions 0 … L-1, in the half-split layout, for
    radians per position [K/2].

    Computed on the host in float64: an angle of thousands of radians has few exact digits left in
    float32.
    """
    angles = np.arange(length)[:, None] * frequencies  # [L, K/2]
    cos = np.concatenate([np.cos(angles), np.cos(angles)], axis=-1)[:, None]
    sin = np.concatenate([-np.sin(angles), np.sin(angles)], axis=-1)[:, None]
    return jnp.asarray(cos, jnp.float32), jnp.asarray(sin, jnp.float32)


def rotation_at(positions: Array, frequencies: np.ndarray) -> tuple[Array, Array]:
    """`rotation` for the positions [B, L] of packed rows: [B, L, 1, K] each."""
    tables = rotation(positions.shape[1], frequencies)
    return tables[0][positions], tables[1][positions]


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """`x` [B, L, H, K] turned by `rotation`: (a, b) → (a·cos - b·sin, b·cos + a·sin)."""
    return x * cos + jnp.roll(x, x.shape[-1] // 2, axis=-1) * sin


def positions_of(segments: Array) -> Array:
    """Position of each token in its own text, [B, L] int32, in packed rows.

    Args:
        segments: [B, L] int32, the number of the text in its row, from 1; 0 for padding.
    """
    index = jnp.arange(segments.shape[1], dtype=jnp.int32)
    first = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return index - jax.lax.cummax(jnp.where(first, index, 0), axis=1)


def mask_bias(segments: Array, *, causal: bool) -> Array:
    """What is added to attention scores [B, H, L, L] so that padding, other texts of a packed row,
    and the future, are not seen.

    Args:
        segments: [B, L]; bool, True for a real token; or int32, as for `positions_of`.
        causal: also hide later tokens.

    Returns:
        [B, 1, 1, L] for a mask that is not causal, otherwise [B, 1, L, L]; float32.
    """
    if segments.dtype == bool:
        seen = segments[:, None, None, :]
    else:
        seen = (segments[:, None, :, None] == segments[:, None, None, :]) & (segments > 0)[
            :, None, None, :
        ]
    if causal:
        seen = seen & jnp.tril(jnp.ones((segments.shape[1], segments.shape[1]), bool))
    return jnp.where(seen, 0.0, _UNSEEN)


def window_bias(length: int, window: int, *, causal: bool = True) -> Array:
    """What is added to `mask_bias` so that a token sees only the last `window`, itself included; or
    if not causal, half as many on each side (as EmbeddingGemma); [L, L] float32.
    """
    index = np.arange(length)
    back = index[:, None] - index
    return jnp.where(back < window if causal else abs(back) <= window // 2, 0.0, _UNSEEN)


def attention(
    q: Array, k: Array, v: Array, bias: Array, dtype: DTypeLike, cap: float = 0.0
) -> Array:
    """Scaled dot-product attention; k and v may have fewer heads than q (a divisor of them).

    The rows of all query heads that share a key head are one operand, and batch axes come first:
    XLA's CPU backend then multiplies without copies of its own. Gradients of attention alone take a
    quarter less time than by `jax.nn.dot_product_attention` at K = 32 and an eighth less at K = 64.

    Args:
        q: [B, L, H, K]; k, v: [B, L, H', K]; bias: as `mask_bias` gives it.
        cap: if not 0, a score s becomes cap · tanh(s / cap).

    Returns:
        [B, L, H, K] in `dtype`.
    """
    size, length, heads, dim = q.shape
    groups = k.shape[2]  # H'
    q = (q * dim**-0.5).astype(dtype).reshape(size, length, groups, -1, dim)
    q = q.transpose(0, 2, 3, 1, 4).reshape(size, groups, -1, dim)  # [B, H', H/H'·L, K]
    k, v = (x.astype(dtype).transpose(0, 2, 1, 3) for x in (k, v))  # [B, H', L, K]
    scores = jnp.matmul(q, k.mT, preferred_element_type=jnp.float32)
    scores = scores.reshape(size, heads, length, length)
    if cap:
        scores = cap * jnp.tanh(scores / cap)
    seen = jax.nn.softmax(scores + bias, axis=-1).astype(dtype)
    out = seen.reshape(size, groups, -1, length) @ v
    out = out.reshape(size, groups, -1, length, dim).transpose(0, 3, 1, 2, 4)
    return out.reshape(size, length, heads, dim)
