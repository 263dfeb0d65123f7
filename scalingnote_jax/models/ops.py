"""The arithmetic that both architectures share. Norms, softmax and rotation are in float32.

Shapes: B rows, L tokens, E hidden, H heads, K head size.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

# Added to the score of a key that must not be seen. Finite, so that a row with nothing to see gives
# a mean over everything and not NaN; large enough that exp() of a masked score is exactly zero.
_UNSEEN = -1e9


def look_up(table: Array, tokens: Array) -> Array:
    """Rows of `table` [V, E] for `tokens` [B, L] → [B, L, E].

    An id outside of the table gives NaN, which stops a run; clipped, it would be a wrong vector.
    """
    return jnp.take(table, tokens, axis=0, mode="fill")


def linear(x: Array, weight: Array, dtype: DTypeLike, inputs: int = 1) -> Array:
    """`x` times `weight` over the last `inputs` axes of x, the first of the weight; float32 out.

    Everything else is folded into two axes first. With the tokens on two axes XLA's CPU backend
    copies each operand of the weight's gradient into another layout; folded, a training step of a
    decoder takes about a fifth less time.

    Args:
        x: [..., *in].
        weight: [*in, *out].
        dtype: what both are cast to. The result is cast back only after the product, so that the
            products of the backward pass have operands of this type as well.
    """
    fan_in = int(np.prod(weight.shape[:inputs]))
    rows = x.reshape(-1, fan_in).astype(dtype)
    out = rows @ weight.reshape(fan_in, -1).astype(dtype)
    return out.astype(jnp.float32).reshape(*x.shape[: x.ndim - inputs], *weight.shape[inputs:])


# The backward pass recomputes these two activations, whatever the remat policy: redoing them is
# cheaper than writing and reading four more arrays of the size of the feed-forward layer.
@jax.checkpoint
def swiglu(gate: Array, up: Array) -> Array:
    """silu(gate) · up."""
    return jax.nn.silu(gate) * up


@jax.checkpoint
def gelu(x: Array) -> Array:
    """The exact GELU, by erf."""
    return jax.nn.gelu(x, approximate=False)


def rms_norm(x: Array, scale: Array, eps: float) -> Array:
    """x / rms(x) · scale over the last axis."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps) * scale


def layer_norm(x: Array, scale: Array, bias: Array, eps: float) -> Array:
    """(x - mean) / std · scale + bias over the last axis."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + eps) * scale + bias


def rotation(length: int, head_dim: int, theta: float) -> tuple[Array, Array]:
    """Cosines and signed sines [L, 1, K] of rotary positions 0 … L-1, in the half-split layout.

    Computed on the host in float64: an angle of thousands of radians has few exact digits left in
    float32.
    """
    frequencies = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    angles = np.arange(length)[:, None] * frequencies  # [L, K/2]
    cos = np.concatenate([np.cos(angles), np.cos(angles)], axis=-1)[:, None]
    sin = np.concatenate([-np.sin(angles), np.sin(angles)], axis=-1)[:, None]
    return jnp.asarray(cos, jnp.float32), jnp.asarray(sin, jnp.float32)


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """`x` [B, L, H, K] turned by `rotation`: (a, b) → (a·cos - b·sin, b·cos + a·sin)."""
    return x * cos + jnp.roll(x, x.shape[-1] // 2, axis=-1) * sin


def mask_bias(mask: Array, *, causal: bool) -> Array:
    """What is added to attention scores [B, H, L, L] so that padding, and the future, are not seen.

    Args:
        mask: [B, L] bool, True for a real token.
        causal: also hide later tokens.

    Returns:
        [B, 1, L, L] if causal, otherwise [B, 1, 1, L]; float32.
    """
    seen = mask[:, None, None, :]
    if causal:
        seen = seen & jnp.tril(jnp.ones((mask.shape[1], mask.shape[1]), bool))
    return jnp.where(seen, 0.0, _UNSEEN)


def attention(q: Array, k: Array, v: Array, bias: Array, dtype: DTypeLike) -> Array:
    """Scaled dot-product attention; k and v may have fewer heads than q (a divisor of them).

    Args:
        q: [B, L, H, K]; k, v: [B, L, H', K]; bias: as `mask_bias` gives it.

    Returns:
        [B, L, H, K] in `dtype`.
    """
    q, k, v = (x.astype(dtype) for x in (q, k, v))
    return jax.nn.dot_product_attention(q, k, v, bias=bias)
