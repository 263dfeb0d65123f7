"""Norms and gates: by hand, and what the backward pass keeps of them with bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_towers import BERT, DECODER, MODERNBERT, define, random_params

from scalingnote_jax.config import DecoderShape, replace
from scalingnote_jax.models.layers import activations as act

ROWS, TOKENS = 5, 7  # no number of heads
X = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
SCALE, BIAS = np.linspace(0.5, 1.5, 8, dtype=np.float32), np.linspace(-1, 1, 8, dtype=np.float32)
CASES: dict[str, Callable[..., Any]] = {
    "rms_norm": lambda x, dtype: act.rms_norm(x, SCALE, 1e-5, dtype),
    "layer_norm": lambda x, dtype: act.layer_norm(x, SCALE, BIAS, 1e-5, dtype),
    "without_bias": lambda x, dtype: act.layer_norm(x, SCALE, 0.0, 1e-5, dtype),
    "swiglu": lambda x, dtype: act.swiglu(x, 2 * x, dtype),
    "geglu": lambda x, dtype: act.geglu(x, 2 * x, dtype),
    "exact_geglu": lambda x, dtype: act.exact_geglu(x, 2 * x, dtype),
    "gelu": act.gelu,
}


def test_by_hand() -> None:
    x = np.array([[3.0, 4.0]], np.float32)  # mean square 12.5, mean 3.5, standard deviation 0.5
    ones = np.ones(2, np.float32)
    np.testing.assert_allclose(act.rms_norm(x, 2 * ones, 0.0), 2 * x / 12.5**0.5, rtol=1e-6)
    np.testing.assert_allclose(act.layer_norm(x, 2 * ones, 1.0, 0.0), [[-1.0, 3.0]], rtol=1e-5)
    sigmoid = 1 / (1 + np.exp(-x))
    np.testing.assert_allclose(act.swiglu(x, 5 * ones), 5 * x * sigmoid, rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_only_what_is_kept_is_rounded(name: str) -> None:
    """The value is that of float32; the gradient is, but for the rounding of the inputs."""
    weight = np.random.default_rng(1).normal(size=X.shape).astype(np.float32)

    def value_and_grad(dtype: str) -> Any:
        value = CASES[name](X, dtype)
        return value, jax.grad(lambda x: (weight * CASES[name](x, dtype)).sum())(X)

    (exact, exact_grad), (value, grad) = map(value_and_grad, ("float32", "bfloat16"))
    np.testing.assert_array_equal(value, exact)
    assert np.abs(grad - exact_grad).max() < 0.03 * np.abs(exact_grad).max()
    rounded = jnp.asarray(X).astype(jnp.bfloat16).astype(jnp.float32)
    at_rounded = jax.grad(lambda x: (weight * CASES[name](x, "float32")).sum())(rounded)
    np.testing.assert_allclose(grad, at_rounded, atol=1e-5)


def kept(shape: Any, dtype: str, **changes: Any) -> list[Any]:
    """What the backward pass of a tower's vectors keeps that is as large as hidden states."""
    tower = define(shape, dtype=dtype, pooling="mean", **changes)
    tokens, mask = np.zeros((ROWS, TOKENS), np.int32), np.ones((ROWS, TOKENS), bool)
    _, backward = jax.vjp(lambda params: tower.apply(params, tokens, mask), random_params(tower))
    leaves = [x for x in jax.tree.leaves(backward) if hasattr(x, "dtype")]
    return [x for x in leaves if x.ndim >= 3 and x.shape[-3:-1] == (ROWS, TOKENS)]


QWEN3 = replace(DECODER, qk_norm=True, qkv_bias=True)
SHAPES = {"llama": DECODER, "qwen3": QWEN3, "bert": BERT, "modernbert": MODERNBERT}
SHAPES |= {"gemma": replace(QWEN3, gemma=True)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_nothing_as_large_as_hidden_states_is_kept_in_float32(shape: DecoderShape) -> None:
    assert any(x.dtype == jnp.float32 for x in kept(shape, "float32"))
    large = [x.shape for x in kept(shape, "bfloat16") if x.dtype == jnp.float32]
    assert not large
