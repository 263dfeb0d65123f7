"""What the steps of all stages share. A step is a pure function (state, batch) → (state, metrics),
jitted by `prepare.py`; each stands in its stage's file. Metrics leave as (sum, count), so that they
average rightly over any number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, Sharding

from scalingnote_jax.losses.contrastive_form import ContrastiveSettings, contrastive_form
from scalingnote_jax.losses.matryoshka import Loss
from scalingnote_jax.models.layers.params import Flat, nest
from scalingnote_jax.models.tower import TowerDef, normalise
from scalingnote_jax.train.microbatch import accumulated_grad
from scalingnote_jax.train.optim import SpikeState
from scalingnote_jax.train.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, tuple[jax.Array, jax.Array]]


def dropout_keys(
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


def unit_loss(
    cfg: ContrastiveSettings, batch: Batch, scale: jax.Array, rows: Sharding | None
) -> Loss:
    """The contrastive loss as a function of query_raw [B, D] and doc_raw [B, G, D]."""
    queries, group = batch["doc_ids"].shape
    mesh = cast(Mesh, rows.mesh) if isinstance(rows, NamedSharding) else None
    loss = contrastive_form(cfg, queries, queries * group, mesh)
    ids = {name: batch[name] for name in ("query_ids", "doc_ids", "positive_ids")}
    return lambda query_raw, doc_raw: loss(
        normalise(query_raw), normalise(doc_raw), **ids, scale=scale
    )


def student_vectors(
    tower: TowerDef, state: TrainState, trained: Flat, batch: Batch, rows: Sharding | None
) -> jax.Array:
    """[B, D], before the L2 norm, of the queries of a batch of stage 2 or 3.

    Args:
        state: its frozen parameters are used.
        trained: parameters "student/…".
        rows: on a mesh, where the rows of the batch lie.
    """
    params = nest(trained | state.frozen)
    tokens, mask = batch["tokens"], batch["mask"]
    return tower.apply(params["student"], tokens, mask, rows, keys=batch.get("keys"))


def update(
    state: TrainState,
    loss_fn: Callable[[Flat, Batch], tuple[jax.Array, Metrics]],
    batch: Batch,
    tx: optax.GradientTransformation,
    rows: Sharding | None,
    parts: int,
    shared: tuple[str, ...] = (),
) -> tuple[TrainState, Metrics]:
    """The state after one step of the optimizer, and the metrics with the gradient's norm.

    Args:
        loss_fn: (trained parameters, batch) → (loss, metrics).
        rows: on a mesh, where the rows of a batch lie.
        parts: of the batch, whose mean gradient is taken.
        shared: as for `accumulated_grad`.
    """
    given = loss_fn, state.params, batch, rows
    grads, metrics = accumulated_grad(*given, parts=parts, shared=shared)
    loss = metrics["loss"][0] / metrics["loss"][1]
    with_loss = optax.with_extra_args_support(tx)
    updates, opt_state = with_loss.update(grads, state.opt_state, state.params, value=loss)
    params = optax.apply_updates(state.params, updates)
    metrics["grad_norm"] = (optax.tree.norm(grads), jnp.float32(1))
    if isinstance(opt_state, SpikeState):
        skipped = opt_state.skipped - state.opt_state.skipped
        metrics["skipped"] = (skipped.astype(jnp.float32), jnp.float32(1))
    return TrainState(state.step + 1, params, state.frozen, opt_state), metrics
