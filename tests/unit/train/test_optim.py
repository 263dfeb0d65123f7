"""The optimizer by hand: what decays, what clipping does to a gradient, the rates of a schedule."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scalingnote_jax.config import (
    BertShape,
    DecoderShape,
    LoraConfig,
    OptimConfig,
    TowerConfig,
    TowersConfig,
)
from scalingnote_jax.models.pair import Towers
from scalingnote_jax.train.optim import learning_rate, make_optimizer, skip_spikes

QWEN2 = TowerConfig("random", DecoderShape(qkv_bias=True, qk_norm=True), projection=32)
BERT = TowerConfig("random", BertShape(), projection=32)
AXES = {"w": ("embed", "mlp"), "b": ("norm",)}


def decayed(towers: TowersConfig) -> set[str]:
    """Paths that a step without any gradient makes smaller."""
    shapes, axes = Towers(towers).abstract()
    params: dict[str, Any] = {path: jnp.ones(x.shape) for path, x in shapes.items()}
    cfg = OptimConfig(learning_rate=0.1, weight_decay=0.5, warmup="0 steps", schedule="constant")
    tx = make_optimizer(cfg, 10, axes)
    nothing = {path: jnp.zeros_like(x) for path, x in params.items()}
    updates, _ = tx.update(nothing, tx.init(params), params)
    found = {path for path, x in updates.items() if np.any(x)}
    for path in found:
        np.testing.assert_allclose(updates[path], -0.05, rtol=1e-6)
    return found


@pytest.mark.slow
def test_what_decays() -> None:
    """Tables and linear weights; no bias, whatever its shape, no norm, no temperature."""
    matrices = {"body/embedding/table", "projection"}
    matrices |= {f"body/layers/{name}" for name in ("q", "k", "v", "o", "gate", "up", "down")}
    bert = {f"body/embedding/{name}" for name in ("table", "positions", "types")}
    bert |= {f"body/layers/{name}" for name in ("q", "k", "v", "o", "up", "down")}
    expected = {f"query/{path}" for path in matrices}
    expected |= {f"doc/{path}" for path in bert | {"projection"}}
    assert decayed(TowersConfig(QWEN2, BERT)) == expected


@pytest.mark.slow
def test_adapters_decay() -> None:
    tower = TowerConfig("random", QWEN2.shape, lora=LoraConfig(rank=2, modules=("layers/[qo]$",)))
    found = {path for path in decayed(TowersConfig(tower, tower)) if "lora" in path}
    names = {f"body/layers/lora/{name}/{part}" for name in "qo" for part in "ab"}
    assert found == {f"{side}/{name}" for side in ("query", "doc") for name in names}


@pytest.mark.parametrize(("clip", "factor"), [(1.0, 0.2), (10.0, 1.0)])
def test_a_long_gradient_is_shortened(clip: float, factor: float) -> None:
    """Of length 5 over both parameters. Adam's first moment is a tenth of what it is given."""
    tx = make_optimizer(OptimConfig(clip_norm=clip), 10, AXES)
    params = {"w": jnp.zeros((1, 2)), "b": jnp.zeros(1)}
    grads = {"w": jnp.array([[0.0, 3.0]]), "b": jnp.array([4.0])}
    _, state = tx.update(grads, tx.init(params), params)
    mu = optax.tree.get(state, "mu")
    np.testing.assert_allclose(mu["w"], [[0.0, 0.3 * factor]], rtol=1e-6)
    np.testing.assert_allclose(mu["b"], [0.4 * factor], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_first_moments_are_stored_as_asked(dtype: str) -> None:
    tx = make_optimizer(OptimConfig(moment_dtype=dtype), 10, AXES)  # type: ignore[arg-type]
    state = tx.init({"w": jnp.zeros((1, 2)), "b": jnp.zeros(1)})
    assert optax.tree.get(state, "mu")["w"].dtype == dtype
    assert optax.tree.get(state, "nu")["w"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # Two steps of warm-up from 1/3, the peak at step 2, then down to zero in 8 steps.
        ("linear", [1 / 3, 2 / 3, 1.0, 0.5, 0.0]),
        ("cosine", [1 / 3, 2 / 3, 1.0, 0.5, 0.0]),
        ("constant", [1 / 3, 2 / 3, 1.0, 1.0, 1.0]),
    ],
)
def test_learning_rate_by_hand(schedule: Any, expected: list[float]) -> None:
    rate = learning_rate(OptimConfig(learning_rate=1.0, warmup="20%", schedule=schedule), 10)
    assert [float(rate(s)) for s in (0, 1, 2, 6, 10)] == pytest.approx(expected, abs=1e-6)


def test_a_warm_up_up_to_the_last_step() -> None:
    rate = learning_rate(OptimConfig(learning_rate=1.0, warmup="2 steps", schedule="linear"), 3)
    assert [float(rate(s)) for s in range(4)] == pytest.approx([1 / 3, 2 / 3, 1.0, 0.0], abs=1e-6)


def test_the_rate_of_a_step_is_the_schedules() -> None:
    cfg = OptimConfig(learning_rate=0.1, weight_decay=0.0, warmup="1 steps", schedule="linear")
    tx, params = make_optimizer(cfg, 3, AXES), {"w": jnp.zeros((1, 1)), "b": jnp.zeros(1)}
    state, moved = tx.init(params), []
    for _ in range(3):  # a gradient that stays: Adam moves by the rate
        updates, state = tx.update({"w": jnp.ones((1, 1)), "b": jnp.ones(1)}, state, params)
        moved.append(float(-updates["w"][0, 0]))
    assert moved == pytest.approx([0.05, 0.1, 0.05], rel=1e-4)


def test_a_parameter_with_a_rate_of_its_own() -> None:
    """It follows the same schedule; the others' step is as without."""
    cfg = OptimConfig(learning_rate=0.1, weight_decay=0.0, warmup="1 steps", schedule="linear")
    params = {"w": jnp.zeros((1, 1)), "b": jnp.zeros(1)}
    grads, moved = {"w": jnp.ones((1, 1)), "b": jnp.ones(1)}, []
    tx = make_optimizer(cfg, 3, AXES, {"b": 0.02, "not trained": 1.0})
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(grads, state, params)
        moved.append((float(-updates["w"][0, 0]), float(-updates["b"][0])))
    expected = [(0.05, 0.01), (0.1, 0.02), (0.05, 0.01)]
    np.testing.assert_allclose(moved, expected, rtol=1e-4)


def test_a_spike_changes_neither_parameters_nor_moments():
    """Losses 1 and 3 in turns: mean 2, deviation 1; with a factor of 4 the limit is 6."""
    tx = skip_spikes(optax.adam(0.1), 4.0, window=4)
    params = {"w": jnp.ones(2)}
    state = tx.init(params)

    def step(value: float, grad: float) -> float:
        nonlocal state
        given = {"w": jnp.full(2, grad)}
        updates, state = tx.update(given, state, params, value=jnp.float32(value))
        return float(updates["w"][0])

    moved = [step(value, 1.0) != 0 for value in (1.0, 3.0, 1.0, 3.0, 5.9)]
    assert moved == [True] * 5
    before = state.inner
    limit = float(state.seen[0].mean() + 4 * state.seen[0].std())
    assert step(limit + 0.1, 1.0) == 0
    assert step(jnp.nan, 1.0) == 0
    assert step(1.0, jnp.inf) == 0
    assert step(3.0, 100.0) == 0  # the gradient alone is a spike too
    assert int(state.skipped) == 4
    jax.tree.map(np.testing.assert_array_equal, state.inner, before)
    assert step(3.0, 1.0) != 0


def test_nothing_is_a_spike_before_half_of_the_window():
    tx = skip_spikes(optax.sgd(1.0), 1.0, window=8)
    params = {"w": jnp.zeros(())}
    state = tx.init(params)
    for value in (1.0, 1.0, 50.0):
        updates, state = tx.update({"w": jnp.ones(())}, state, params, value=jnp.float32(value))
        assert float(updates["w"]) == -1.0
