"""A tower on a mesh: the rows of its hidden states are held where the batch lies."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from scalingnote_jax.config import DecoderShape, MeshConfig, TowerConfig
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.models.tower import normalise, tower_def


@pytest.mark.slow
def test_rows_on_a_mesh() -> None:
    """With weights split over E, held rows give the same numbers in less memory."""
    shape = DecoderShape(vocab_size=64, hidden_size=64, intermediate_size=256, num_layers=2)
    tower = tower_def(TowerConfig(weights="random", shape=shape))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: 0.1 * rng.normal(size=x.shape).astype(np.float32), tower.abstract()[0]
    )
    tokens = rng.integers(0, 64, (32, 32)).astype(np.int32)
    mask = np.arange(32) < rng.integers(1, 33, (32, 1))
    mesh = mesh_lib.make_mesh(MeshConfig(data=1, fsdp=-1))
    rows = mesh_lib.batch_sharding(mesh)
    flat = traverse_util.flatten_dict(tower.abstract()[1])
    places = {
        path: NamedSharding(mesh, PartitionSpec(*("fsdp" if a == "embed" else None for a in axes)))
        for path, axes in flat.items()
    }
    shardings = traverse_util.unflatten_dict(places)

    def loss(rows: Sharding | None, params: Any, tokens: Any, mask: Any) -> jax.Array:
        return jnp.sum(normalise(tower.apply(params, tokens, mask, rows)) ** 3)

    one_device = jax.jit(jax.value_and_grad(partial(loss, None)))(params, tokens, mask)
    split = {
        held: jax.jit(
            jax.value_and_grad(partial(loss, rows if held else None)),
            in_shardings=(shardings, rows, rows),
            out_shardings=(None, shardings),
        )
        .lower(params, tokens, mask)
        .compile()
        for held in (True, False)
    }
    args = jax.device_put((params, tokens, mask), (shardings, rows, rows))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), split[True](*args), one_device
    )
    held, left = (split[h].memory_analysis().temp_size_in_bytes for h in (True, False))
    assert held < 0.6 * left, (held, left)
