"""The two training steps: pure functions (state, batch) → (state, metrics), jitted by the loop.

`contrastive_step` is stage 1 (both LLM towers), `distill_step` is stage 2 (the small query tower
only: no document parameter is in its state). Metrics leave as (sum, count), so that they average
rightly over any number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, Sharding

from scalingnote_jax.config import DistillConfig, TrainConfig
from scalingnote_jax.data.packing import texts_per_row
from scalingnote_jax.losses.choose import stage1_loss
from scalingnote_jax.losses.contrastive import logit_scale
from scalingnote_jax.losses.distill import distill_loss
from scalingnote_jax.models.towers import TowerDef, normalise
from scalingnote_jax.train.microbatch import accumulated_grad, encode_in_chunks
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
    seed: int = 0,
    rows: Sharding | None = None,
) -> tuple[TrainState, Metrics]:
    """One step of stage 1.

    Args:
        state: parameters "query/…" and "doc/…" (or "shared/…"), and "log_scale" [] where the
            temperature is learned.
        batch: query_tokens, query_mask [B, Lq]; query_ids [B]; doc_ids [B, G]; positive_ids [B, P];
            and doc_tokens, doc_mask [B, G, Ld], or of packed documents doc_tokens, doc_segments
            [R, Ld] and doc_slots [B, G] (see `data/packing.py`).
        query_tower, doc_tower, cfg, tx: static.
        seed: of dropout.
        rows: on a mesh, where the rows of a batch lie.
    """

    def loss_fn(trained: Flat, batch: Batch) -> tuple[jax.Array, Metrics]:
        params = nest(trained | state.frozen)
        query_raw = encode_in_chunks(
            query_tower,
            side_params(params, "query"),
            batch["query_tokens"],
            batch["query_mask"],
            batch.get("query_keys"),
            rows,
            chunks=cfg.encode_chunks,
        )
        doc_raw = _encode_documents(doc_tower, side_params(params, "doc"), batch, rows, cfg)
        scale = logit_scale(params[LOG_SCALE], cfg.max_logit_scale)
        queries, group = batch["doc_ids"].shape
        mesh = cast(Mesh, rows.mesh) if isinstance(rows, NamedSharding) else None
        total, counts = stage1_loss(cfg, queries, queries * group, mesh)(
            normalise(query_raw),
            normalise(doc_raw),
            query_ids=batch["query_ids"],
            doc_ids=batch["doc_ids"],
            positive_ids=batch["positive_ids"],
            scale=scale,
        )
        count = jnp.float32(query_raw.shape[0])
        metrics = {
            "loss": (total, count),
            "accuracy": (counts["correct"], count),
            "negatives_per_query": (counts["negatives"], count),
            "logit_scale": (scale, jnp.float32(1)),
        }
        return total / count, metrics

    shape = batch["query_tokens"].shape[:1], batch["doc_tokens"].shape[:-1]
    for i, (side, tower) in enumerate((("query", query_tower), ("doc", doc_tower))):
        batch = batch | _dropout_keys(f"{side}_keys", tower, (seed, i), state.step, shape[i])
    return _update(state, loss_fn, batch, tx, rows, cfg.accumulate)


def distill_step(
    state: TrainState,
    batch: Batch,
    *,
    tower: TowerDef,
    cfg: DistillConfig,
    tx: optax.GradientTransformation,
    seed: int = 0,
    rows: Sharding | None = None,
) -> tuple[TrainState, Metrics]:
    """One step of stage 2.

    Args:
        state: parameters "student/…".
        batch: tokens, mask [B, L] in the student's own tokens; teacher_raw [B, D] from the cache.
        tower, cfg, tx: static.
        seed: of dropout.
        rows: on a mesh, where the rows of a batch lie.
    """

    def loss_fn(trained: Flat, batch: Batch) -> tuple[jax.Array, Metrics]:
        params = nest(trained | state.frozen)
        student_raw = tower.apply(
            params["student"], batch["tokens"], batch["mask"], rows, keys=batch.get("keys")
        )
        total, sums = distill_loss(
            student_raw, batch["teacher_raw"], w_mse=cfg.w_mse, w_cos=cfg.w_cos, where=cfg.normalise
        )
        count = jnp.float32(student_raw.shape[0])
        return total / count, {"loss": (total, count)} | {k: (v, count) for k, v in sums.items()}

    batch = batch | _dropout_keys("keys", tower, (seed,), state.step, batch["tokens"].shape[:1])
    return _update(state, loss_fn, batch, tx, rows, cfg.accumulate)


def _dropout_keys(
    name: str, tower: TowerDef, seeds: tuple[int, ...], step: jax.Array, shape: tuple[int, ...]
) -> Batch:
    """{name: a key per row}, drawn from the seeds and the step alone; {} without dropout."""
    if not tower.cfg.dropout:
        return {}
    key = jax.random.fold_in(jax.random.key(seeds[0]), step)
    for number in seeds[1:]:
        key = jax.random.fold_in(key, number)
    rows = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(math.prod(shape)))
    return {name: rows.reshape(shape)}


def _encode_documents(
    tower: TowerDef, params: dict[str, Any], batch: Batch, rows: Sharding | None, cfg: TrainConfig
) -> jax.Array:
    """[B, G, D], before the L2 norm."""
    tokens = batch["doc_tokens"]
    if "doc_slots" not in batch:
        size, group, length = tokens.shape
        tokens, mask = (x.reshape(-1, length) for x in (tokens, batch["doc_mask"]))
        keys = batch["doc_keys"].reshape(-1) if "doc_keys" in batch else None
        raw = encode_in_chunks(tower, params, tokens, mask, keys, rows, chunks=cfg.encode_chunks)
        return raw.reshape(size, group, -1)
    raw = encode_in_chunks(
        tower,
        params,
        tokens,
        batch["doc_segments"],
        batch.get("doc_keys"),
        rows,
        chunks=cfg.encode_chunks,
        texts_per_row=texts_per_row(tower.cfg.text),
    )  # [R, S, D]
    return raw.reshape(-1, raw.shape[-1])[batch["doc_slots"]]


def _update(
    state: TrainState,
    loss_fn: Callable[[Flat, Batch], tuple[jax.Array, Metrics]],
    batch: Batch,
    tx: optax.GradientTransformation,
    rows: Sharding | None,
    parts: int,
) -> tuple[TrainState, Metrics]:
    grads, metrics = accumulated_grad(loss_fn, state.params, batch, rows, parts=parts)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics["grad_norm"] = (optax.tree.norm(grads), jnp.float32(1))
    return TrainState(state.step + 1, params, state.frozen, opt_state), metrics
