"""The gradient of a batch in parts, as numbers: through plain gradient descent, whose step is the
gradient. (Adam's first steps are of one size however long a gradient is.)
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scalingnote_jax.config import DecoderShape, DistillConfig, MeshConfig, TowerConfig
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.models.layers.params import flatten
from scalingnote_jax.models.tower import tower_def
from scalingnote_jax.train.microbatch import accumulated_grad
from scalingnote_jax.train.stage2 import distill_step
from scalingnote_jax.train.state import make_state

ROWS, DIM, BEST = 8, 16, 3


@pytest.mark.parametrize(
    ("parts", "of_squares"),
    # Rows 0 to 7 have a mean of 3.5; every second one 3 or 4; every fourth one 2, 3, 4 or 5
    [(1, 3.5**2), (2, (3**2 + 4**2) / 2), (4, (2**2 + 3**2 + 4**2 + 5**2) / 4)],
)
def test_the_mean_of_the_parts_by_hand(parts: int, of_squares: float) -> None:
    """Of w·x, mean over the rows, and of half the square of u times a part's own mean."""

    def loss(params: dict[str, jax.Array], batch: dict[str, jax.Array]) -> Any:
        each = params["w"] * batch["x"] + (params["v"] * batch["all"]).sum()
        own = jnp.square(params["u"] * batch["x"].mean()) / 2
        return each.mean() + own, {"loss": (each.sum(), jnp.float32(len(each)))}

    params = {"w": jnp.float32(2.0), "v": jnp.ones(3), "u": jnp.float32(1.0)}
    batch = {"x": jnp.arange(8.0), "all": jnp.array([1.0, 2.0, 5.0])}
    given = {"parts": parts, "shared": ("all",)}
    grads, metrics = jax.jit(lambda: accumulated_grad(loss, params, batch, None, **given))()
    assert grads["w"] == pytest.approx(3.5)
    assert grads["u"] == pytest.approx(of_squares)
    np.testing.assert_allclose(grads["v"], [1.0, 2.0, 5.0], rtol=1e-6)
    assert metrics["loss"] == (pytest.approx(8 * (7.0 + 8.0)), 8.0)


def distill_gradient(accumulate: int, mesh: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of all terms of stage 2, and the step's metrics."""
    rng = np.random.default_rng(0)
    documents = rng.normal(size=(40, DIM)).astype(np.float32)
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    best, sample = rng.integers(0, 40, (ROWS, BEST)), rng.integers(0, 40, 8)
    batch: dict[str, Any] = {
        "tokens": rng.integers(0, 50, (ROWS, 4)).astype(np.int32),
        "mask": np.ones((ROWS, 4), bool),
        "teacher_raw": rng.normal(size=(ROWS, DIM)).astype(np.float32),
        "top_emb": documents[best],
        "top_ids": best.astype(np.int32),
        "sample_emb": documents[sample],
        "sample_ids": sample.astype(np.int32),
    }
    tower = tower_def(TowerConfig("random", DecoderShape(hidden_size=DIM), num_layers=-1))
    cfg = DistillConfig(
        w_kl=1.0, w_margin=1.0, w_rank=0.1, score_temperature=0.2, accumulate=accumulate
    )
    params, tx = flatten({"student": tower.init(0)}), optax.sgd(1.0)
    rows = mesh_lib.batch_sharding(mesh) if mesh else None
    if mesh:
        batch = {name: jax.device_put(x, rows) for name, x in batch.items()}
    shared = {"teacher_mean": jnp.zeros(DIM)}

    def step(batch: Any) -> Any:
        state = make_state(params, {}, tx)
        return distill_step(state, batch, tower=tower, cfg=cfg, tx=tx, rows=rows, shared=shared)

    state, metrics = jax.jit(step)(batch)
    return {path: x - state.params[path] for path, x in params.items()}, metrics


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
def test_stage_2_in_parts_is_the_whole_batch(devices: int) -> None:
    """Every part sees all sampled documents, on one device and where devices share them."""
    mesh = mesh_lib.make_mesh(MeshConfig(), jax.devices()[:devices]) if devices > 1 else None
    whole, expected = distill_gradient(1)
    parts, metrics = distill_gradient(2, mesh)
    for path, x in whole.items():
        assert np.abs(x).max() > 1e-2
        np.testing.assert_allclose(parts[path], x, atol=1e-5)
    for name in ("loss", "kl", "margin_error", "rank_loss", "cosine"):
        means = [float(m[name][0] / m[name][1]) for m in (metrics, expected)]
        assert means[0] == pytest.approx(means[1], rel=1e-5), name
    total, count = metrics["grad_norm"]
    length = np.sqrt(sum(np.square(x).sum() for x in whole.values()))
    assert total / count == pytest.approx(float(length), rel=1e-4)
