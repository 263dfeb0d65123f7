"""Dropout in the generative term of stage 1: there in training, from keys of its own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_towers import DECODER, define, random_params

from scalingnote_jax.config import TrainConfig, replace
from scalingnote_jax.losses.query_prediction import generative_loss
from scalingnote_jax.models.layers.params import flatten
from scalingnote_jax.train.stage1 import contrastive_step
from scalingnote_jax.train.state import make_state
from scalingnote_jax.train.step import dropout_keys

ROWS, SEED = 4, 7
TOWER = define(replace(DECODER, num_layers=1), dropout=0.3)


def keys(number: int) -> jax.Array:
    """Of stage 1's first step: of queries (0), documents (1), or of the prediction (2)."""
    return dropout_keys("k", TOWER, (SEED, number), jnp.int32(0), (ROWS,))["k"]


def texts() -> tuple[np.ndarray, np.ndarray]:
    tokens = np.random.default_rng(0).integers(0, 50, (ROWS, 5)).astype(np.int32)
    return tokens, np.ones((ROWS, 5), bool)


def predicted(vectors: Any, keys: Any, chunks: int = 1) -> float:
    """A number, by parameters that are always the same."""
    given = TOWER, random_params(TOWER), jnp.asarray(vectors), *map(jnp.asarray, texts()), None
    return float(jax.jit(lambda: generative_loss(*given, chunks=chunks, keys=keys))())


def test_each_row_has_a_key_whatever_the_chunks() -> None:
    vectors = np.random.default_rng(1).normal(size=(ROWS, 24)).astype(np.float32)
    dropped = predicted(vectors, keys(2))
    assert abs(dropped - predicted(vectors, None)) > 1e-2
    assert abs(dropped - predicted(vectors, keys(1))) > 1e-2
    assert predicted(vectors, keys(2), chunks=2) == pytest.approx(dropped, rel=1e-5)


@pytest.mark.slow
def test_the_step_of_stage_1_drops_there_too() -> None:
    cfg = TrainConfig(title_prediction="generative", w_title=1.0, learn_temperature=False)
    params, ids, tx = random_params(TOWER), np.arange(ROWS, dtype=np.int32), optax.sgd(0.0)
    tokens, mask = texts()
    batch = {
        "query_tokens": tokens,
        "query_mask": mask,
        "doc_tokens": tokens[:, None],
        "doc_mask": mask[:, None],
        "query_ids": ids,
        "doc_ids": ids[:, None],
        "positive_ids": ids[:, None],
    }
    state = make_state(flatten({"shared": params}), {"log_scale": jnp.float32(0.0)}, tx)
    static: dict[str, Any] = {"query_tower": TOWER, "doc_tower": TOWER, "cfg": cfg, "tx": tx}
    _, metrics = jax.jit(lambda s, b: contrastive_step(s, b, seed=SEED, **static))(state, batch)
    vectors = TOWER.apply(params, tokens, mask, keys=keys(1))
    assert float(metrics["title_loss"][0]) == pytest.approx(predicted(vectors, keys(2)), rel=1e-4)


def test_without_dropout_there_are_no_keys() -> None:
    assert dropout_keys("k", define(DECODER), (SEED,), jnp.int32(0), (ROWS,)) == {}
    assert dropout_keys("k", TOWER, (SEED,), jnp.int32(0), (ROWS, 2))["k"].shape == (ROWS, 2)
