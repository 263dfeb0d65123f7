"""The temperature in steps of stage 1: held at its cap, let go again, untouched if it is fixed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalingnote_jax.config import (
    DecoderShape,
    MeshConfig,
    OptimConfig,
    TowerConfig,
    TowersConfig,
    TrainConfig,
    replace,
)
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.models.pair import LOG_SCALE, capped
from scalingnote_jax.train.optim import learning_rate
from scalingnote_jax.train.stage1 import program

# Token vectors looked up: a query of a word meets a document of the same word at a cosine of 1
TOWER = TowerConfig("random", DecoderShape(hidden_size=16), num_layers=-1)
FROZEN = replace(TOWER, freeze=("embedding",))
ROWS = 4


def batch(positives: list[int]) -> dict[str, np.ndarray]:
    """Query i is the word i, its document the word `positives[i]`."""
    words, ids = np.arange(ROWS, dtype=np.int32)[:, None], np.array(positives, np.int32)[:, None]
    return {
        "query_tokens": words,
        "query_mask": np.ones_like(words, bool),
        "doc_tokens": ids[:, None],
        "doc_mask": np.ones_like(ids[:, None], bool),
        "query_ids": words[:, 0],
        "doc_ids": ids,
        "positive_ids": ids,
    }


EASY, WRONG = batch([0, 1, 2, 3]), batch([1, 2, 3, 0])


def scales(cfg: TrainConfig, towers: TowersConfig, batches: list[dict[str, Any]]) -> list[float]:
    """1 / temperature after each step."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    made, _, prepared, step = program(cfg, towers, 0, mesh, steps_per_epoch=100)
    state, found = prepared.place(made.initial(0, cfg.temperature)), []
    for rows in batches:
        state, _ = step(state, rows)
        found.append(float(np.exp((state.params | state.frozen)[LOG_SCALE])))
    return found


def train(**changes: Any) -> TrainConfig:
    return TrainConfig(duration="100 steps", batch_size=ROWS, **changes)


def test_a_scale_at_its_cap_comes_back_at_once() -> None:
    cfg = train(temperature=1 / 9.9, max_logit_scale=10.0, temperature_learning_rate=0.1)
    found = scales(cfg, TowersConfig(FROZEN, FROZEN), [EASY] * 4 + [WRONG] * 4)
    assert found[3] == pytest.approx(10.0, rel=1e-6)
    assert max(found) < 10.0 + 1e-4
    assert found[-1] < 9.9


def test_a_fixed_scale_has_no_cap() -> None:
    cfg = train(temperature=0.005, learn_temperature=False)
    assert scales(cfg, TowersConfig(TOWER, TOWER), [EASY, WRONG]) == pytest.approx(
        [200.0, 200.0], rel=1e-5
    )


def test_the_cap_by_hand() -> None:
    below, other = {LOG_SCALE: jnp.log(20.0), "w": jnp.ones(2)}, {"w": jnp.ones(2)}
    assert capped(below, 100.0)[LOG_SCALE] == below[LOG_SCALE]
    assert jnp.exp(capped({LOG_SCALE: jnp.log(1e6)}, 100.0)[LOG_SCALE]) == pytest.approx(100.0)
    assert capped(other, 100.0) is other


def test_its_rate_is_its_own_and_nothing_decays_it() -> None:
    """Adam's first step is the rate, whatever the gradient; the towers' would move it by 1e-5."""
    optim = OptimConfig(1e-5, weight_decay=1.0, warmup="0 steps", schedule="constant")
    cfg = train(temperature=0.1, temperature_learning_rate=0.02, optim=optim)
    assert scales(cfg, TowersConfig(FROZEN, FROZEN), [WRONG]) == pytest.approx(
        [10 * np.exp(-0.02)], rel=1e-5
    )


def test_by_default_it_moves_in_a_run_of_an_llm() -> None:
    """Over 1,000 steps at 1e-5 for the towers: further than a tenth, where it once was 1 %."""
    own = TrainConfig().temperature_learning_rate
    rate = learning_rate(OptimConfig(learning_rate=own), 1000)
    assert sum(float(rate(step)) for step in range(1000)) > 0.1
