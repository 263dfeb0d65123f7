"""Norms and the gates of feed-forward layers, and what the backward pass keeps of them.

All are computed in float32. Where a tower multiplies in bfloat16, their inputs are kept in it too:
kept in float32 they would be most of the memory of a step that recomputes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike


def keeping(
    dtype: DTypeLike, f: Callable[..., Array], large: tuple[Array, ...], *small: Any
) -> Array:
    """`f(*large, *small)`, of which the backward pass keeps the large arguments in `dtype`, and
    computes everything else again. The value is that of the arguments as they are.

    A norm in float32 is left as it is: what is kept of it is not more, and it is the same to the
    last bit.
    """
    if jnp.dtype(dtype) == jnp.float32:
        return f(*large, *small)

    @jax.custom_vjp
    def kept(large: tuple[Array, ...], small: tuple[Any, ...]) -> Array:
        return f(*large, *small)

    def forward(large: tuple[Array, ...], small: tuple[Any, ...]) -> Any:
        return f(*large, *small), (tuple(x.astype(dtype) for x in large), small)

    def backward(saved: Any, cotangent: Array) -> Any:
        large, small = saved
        whole = tuple(x.astype(jnp.float32) for x in large)
        return jax.vjp(lambda large, small: f(*large, *small), whole, small)[1](cotangent)

    kept.defvjp(forward, backward)
    return kept(large, small)


def rms_norm(x: Array, scale: Array, eps: float, dtype: DTypeLike = jnp.float32) -> Array:
    """x / rms(x) · scale over the last axis, computed in float32; `dtype` as for `keeping`."""
    return keeping(dtype, _rms_norm, (x,), scale, eps)


def layer_norm(
    x: Array, scale: Array, bias: Array | float, eps: float, dtype: DTypeLike = jnp.float32
) -> Array:
    """(x - mean) / std · scale + bias over the last axis; in float32, `dtype` as for `keeping`."""
    return keeping(dtype, _layer_norm, (x,), scale, bias, eps)


def swiglu(gate: Array, up: Array, dtype: DTypeLike = jnp.float32) -> Array:
    """silu(gate) · up."""
    return keeping(dtype, _swiglu, (gate, up))


def geglu(gate: Array, up: Array, dtype: DTypeLike = jnp.float32) -> Array:
    """gelu(gate) · up, with the tanh form that Gemma was trained with."""
    return keeping(dtype, _geglu, (gate, up))


def exact_geglu(gate: Array, up: Array, dtype: DTypeLike = jnp.float32) -> Array:
    """gelu(gate) · up, by erf, as in ModernBERT."""
    return keeping(dtype, _exact_geglu, (gate, up))


def gelu(x: Array, dtype: DTypeLike = jnp.float32) -> Array:
    """The exact GELU, by erf."""
    return keeping(dtype, _gelu, (x,))


def _rms_norm(x: Array, scale: Array, eps: float) -> Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps) * scale


def _layer_norm(x: Array, scale: Array, bias: Array | float, eps: float) -> Array:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + eps) * scale + bias


# The backward pass recomputes these activations, whatever the remat policy: redoing them is
# cheaper than writing and reading four more arrays of the size of the feed-forward layer.
@jax.checkpoint
def _swiglu(gate: Array, up: Array) -> Array:
    return jax.nn.silu(gate) * up


@jax.checkpoint
def _geglu(gate: Array, up: Array) -> Array:
    return jax.nn.gelu(gate, approximate=True) * up


@jax.checkpoint
def _exact_geglu(gate: Array, up: Array) -> Array:
    return jax.nn.gelu(gate, approximate=False) * up


@jax.checkpoint
def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)
