"""The attention kernel for TPUs: against plain attention step by step on a CPU, and compiled for a
TPU where its compiler is installed.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_towers import DECODER, define

from scalingnote_jax.config import MeshConfig, replace
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.devices.sharding import shardings_of
from scalingnote_jax.models.layers import flash, ops
from scalingnote_jax.models.layers.params import flatten, nest
from scalingnote_jax.plan.topology import describe_slices, prepare_environment

LENGTH, HEADS, GROUPS, SIZE = 128, 4, 2, 64


@pytest.fixture(scope="module")
def inputs() -> tuple[np.ndarray, ...]:
    """Four rows: q, k, v, and the segments of one whole, one padded and two packed rows."""
    rng = np.random.default_rng(0)
    shapes = [(4, LENGTH, h, SIZE) for h in (HEADS, GROUPS, GROUPS)]
    segments = np.ones((4, LENGTH), np.int32)
    segments[1, 50:] = 0
    segments[2, 30:], segments[3, 64:90], segments[3, 90:] = 2, 2, 0
    return (*(rng.normal(size=s).astype(np.float32) for s in shapes), segments)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("causal", "window", "cap"),
    [(True, 0, 0.0), (True, 16, 0.0), (True, 0, 5.0), (False, 0, 0.0), (False, 15, 0.0)],
    ids=["causal", "window", "cap", "both-sides", "window-on-both-sides"],
)
def test_equals_plain_attention(inputs: Any, causal: bool, window: int, cap: float) -> None:
    mesh = mesh_lib.make_mesh(MeshConfig(data=1, fsdp=2, tensor=2), jax.devices()[:4])
    rows = mesh_lib.batch_sharding(mesh)
    *qkv, segments = inputs
    real = (segments > 0)[..., None, None]

    def kernel(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        out = flash.attention(
            q,
            k,
            v,
            jnp.asarray(segments),
            rows,
            causal=causal,
            window=window,
            cap=cap,
            interpret=True,
        )
        return jnp.where(real, out, 0.0)

    def plain(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        bias = ops.mask_bias(jnp.asarray(segments), causal=causal)
        bias = bias + (ops.window_bias(LENGTH, window, causal=causal) if window else 0.0)
        return jnp.where(real, ops.attention(q, k, v, bias, "float32", cap), 0.0)

    given, expected = (
        jax.jit(jax.value_and_grad(lambda *x, f=f: jnp.sum(f(*x) ** 2), argnums=(0, 1, 2)))(*qkv)
        for f in (kernel, plain)
    )
    assert given[0] == pytest.approx(float(expected[0]), rel=1e-5)
    for a, b in zip(given[1], expected[1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_other_devices_and_short_texts_do_without() -> None:
    rows = mesh_lib.batch_sharding(mesh_lib.make_mesh(MeshConfig()))
    assert not flash.pays(replace(DECODER, head_dim=128), 1024, rows)
    assert not flash.pays(replace(DECODER, head_dim=128), 1024, None)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("libtpu") is None, reason="needs libtpu, which compiles for TPUs")
def test_a_tower_compiles_with_it_for_a_tpu() -> None:
    prepare_environment()
    devices = describe_slices("v5e:2x2").devices
    mesh = mesh_lib.make_mesh(MeshConfig(data=1, fsdp=2, tensor=2), devices)
    tower, rows = define(replace(DECODER, num_heads=4, head_dim=64)), mesh_lib.batch_sharding(mesh)

    def compiled(length: int) -> str:
        shapes, axes = (flatten(tree) for tree in tower.abstract())
        spread = shardings_of(shapes, axes, mesh)
        params = {
            path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=spread[path])
            for path, x in shapes.items()
        }
        tokens, mask = (
            jax.ShapeDtypeStruct((4, length), dtype, sharding=rows) for dtype in (jnp.int32, bool)
        )

        def loss(params: Any, tokens: jax.Array, mask: jax.Array) -> jax.Array:
            return jnp.sum(tower.apply(nest(params), tokens, mask, rows) ** 2)

        return jax.jit(jax.grad(loss)).lower(params, tokens, mask).compile().as_text()

    assert "tpu_custom_call" in compiled(256)
    assert "tpu_custom_call" not in compiled(128)
