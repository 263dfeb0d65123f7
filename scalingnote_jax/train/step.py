"""The two training steps: pure functions (state, batch) → (state, metrics), jitted by the loop.

`contrastive_step` is stage 1 (both LLM towers), `distill_step` is stage 2 (the small query tower
only: no document parameter is in its state). Metrics leave as (sum, count), so that they average
rightly over any number of steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Sharding

from scalingnote_jax.config import DistillConfig, TrainConfig
from scalingnote_jax.losses.contrastive import contrastive_loss, logit_scale
from scalingnote_jax.losses.distill import distill_loss
from scalingnote_jax.models.towers import TowerDef, normalise
from scalingnote_jax.train.state import Flat, TrainState, nest

Batch = dict[str, jax.Array]
Metrics = dict[str, tuple[jax.Array, jax.Array]]
LOG_SCALE = "log_scale"  # the learned temperature's path among the parameters


def side_params(params: dict[str, Any], side: str) -> dict[str, Any]:
    """A side's weights: its own, or the one set that both sides share."""
    return params["shared"] if "shared" in params else params[side]


def contrastive_step(
    state: TrainState,
    batch: Batch,
    *,
    query_tower: TowerDef,
    doc_tower: TowerDef,
    cfg: TrainConfig,
    tx: optax.GradientTransformation,
    rows: Sharding | None = None,
) -> tuple[TrainState, Metrics]:
    """One step of stage 1.

    Args:
        state: parameters "query/…" and "doc/…" (or "shared/…"), and "log_scale" [] where the
            temperature is learned.
        batch: query_tokens, query_mask [B, Lq]; doc_tokens, doc_mask [B, G, Ld]; query_ids [B];
            doc_ids [B, G]; positive_ids [B, P].
        query_tower, doc_tower, cfg, tx: static.
        rows: on a mesh, where the rows of a batch lie.
    """

    def loss_fn(trained: Flat) -> tuple[jax.Array, Metrics]:
        params = nest(trained | state.frozen)
        size, group, length = batch["doc_tokens"].shape
        query_raw = query_tower.apply(
            side_params(params, "query"), batch["query_tokens"], batch["query_mask"], rows
        )
        doc_tokens = batch["doc_tokens"].reshape(size * group, length)
        doc_mask = batch["doc_mask"].reshape(size * group, length)
        doc_raw = doc_tower.apply(side_params(params, "doc"), doc_tokens, doc_mask, rows)
        scale = logit_scale(params[LOG_SCALE], cfg.max_logit_scale)
        total, counts = contrastive_loss(
            normalise(query_raw),
            normalise(doc_raw).reshape(size, group, -1),
            query_ids=batch["query_ids"],
            doc_ids=batch["doc_ids"],
            positive_ids=batch["positive_ids"],
            scale=scale,
            symmetric=cfg.symmetric,
        )
        count = jnp.float32(size)
        metrics = {
            "loss": (total, count),
            "accuracy": (counts["correct"], count),
            "negatives_per_query": (counts["negatives"], count),
            "logit_scale": (scale, jnp.float32(1)),
        }
        return total / count, metrics

    return _update(state, loss_fn, tx)


def distill_step(
    state: TrainState,
    batch: Batch,
    *,
    tower: TowerDef,
    cfg: DistillConfig,
    tx: optax.GradientTransformation,
    rows: Sharding | None = None,
) -> tuple[TrainState, Metrics]:
    """One step of stage 2.

    Args:
        state: parameters "student/…".
        batch: tokens, mask [B, L] in the student's own tokens; teacher_raw [B, D] from the cache.
        tower, cfg, tx: static.
        rows: on a mesh, where the rows of a batch lie.
    """

    def loss_fn(trained: Flat) -> tuple[jax.Array, Metrics]:
        params = nest(trained | state.frozen)
        student_raw = tower.apply(params["student"], batch["tokens"], batch["mask"], rows)
        total, sums = distill_loss(
            student_raw, batch["teacher_raw"], w_mse=cfg.w_mse, w_cos=cfg.w_cos, where=cfg.normalise
        )
        count = jnp.float32(student_raw.shape[0])
        return total / count, {"loss": (total, count)} | {k: (v, count) for k, v in sums.items()}

    return _update(state, loss_fn, tx)


def _update(
    state: TrainState,
    loss_fn: Callable[[Flat], tuple[jax.Array, Metrics]],
    tx: optax.GradientTransformation,
) -> tuple[TrainState, Metrics]:
    grads, metrics = jax.grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics["grad_norm"] = (optax.tree.norm(grads), jnp.float32(1))
    return TrainState(state.step + 1, params, state.frozen, opt_state), metrics
