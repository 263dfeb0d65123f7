"""The training steps: pure functions (state, batch) → (state, metrics), jitted by the loop.

`contrastive_step` is stage 1 (both LLM towers), `distill_step` is stage 2 and `refine_step` stage 3
(the small query tower only: no document parameter is in their state). Metrics leave as (sum,
count), so that they average rightly over any number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, Sharding

from scalingnote_jax.config import DistillConfig, RefineConfig, TrainConfig
from scalingnote_jax.data.packing import texts_per_row
from scalingnote_jax.losses.contrastive import logit_scale
from scalingnote_jax.losses.contrastive_form import stage1_loss
from scalingnote_jax.losses.distill import stage2_loss
from scalingnote_jax.losses.matryoshka import Loss, matryoshka
from scalingnote_jax.losses.query_prediction import generative_loss
from scalingnote_jax.models.chunks import encode_in_chunks
from scalingnote_jax.models.layers.params import Flat, nest
from scalingnote_jax.models.pair import LOG_SCALE, side_params
from scalingnote_jax.models.tower import TowerDef, normalise
from scalingnote_jax.train.microbatch import accumulated_grad
from scalingnote_jax.train.probe import cone
from scalingnote_jax.train.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, tuple[jax.Array, jax.Array]]


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
            [R, Ld] and doc_slots [B, G] (see `data/packing.py`). To predict queries from titles,
            also doc_beginnings, as doc_mask or doc_segments, of the tokens up to the text.
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
        doc_params = side_params(params, "doc")
        doc_raw, title_raw = _encode_documents(doc_tower, doc_params, batch, rows, cfg)
        scale = logit_scale(params[LOG_SCALE], cfg.max_logit_scale)
        loss = matryoshka(_unit_loss(cfg, batch, scale, rows), cfg.matryoshka)
        total, counts = loss(query_raw, doc_raw)
        count = jnp.float32(query_raw.shape[0])
        metrics = {
            "accuracy": (counts["correct"], count),
            "negatives_per_query": (counts["negatives"], count),
            "logit_scale": (scale, jnp.float32(1)),
        }
        if cfg.title_prediction == "contrastive":
            metrics["title_loss"] = (loss(query_raw, title_raw)[0], count)
        elif cfg.title_prediction == "generative":
            pairs = doc_raw[:, 0], batch["query_tokens"], batch["query_mask"]
            predicted = generative_loss(
                doc_tower, doc_params, *pairs, rows, chunks=cfg.encode_chunks
            )
            metrics["title_loss"] = (predicted, count)
        if "title_loss" in metrics:
            total += cfg.w_title * metrics["title_loss"][0]
        metrics["loss"] = (total, count)
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
    shared: Batch,
) -> tuple[TrainState, Metrics]:
    """One step of stage 2.

    Args:
        state: parameters "student/…".
        batch: tokens, mask [B, L] in the student's own tokens; teacher_raw [B, D] from the cache.
            Where a term compares scores, also top_emb [B, k, D], top_ids [B, k], sample_emb [S, D]
            and sample_ids [S] (see `losses/distill.py`).
        shared: teacher_mean [D], of the teacher's unit vectors, to be looked at; where a term needs
            it, the documents' covariance [D, D].
        tower, cfg, tx: static.
        seed: of dropout.
        rows: on a mesh, where the rows of a batch lie.
    """

    def loss_fn(trained: Flat, batch: Batch) -> tuple[jax.Array, Metrics]:
        params = nest(trained | state.frozen)
        student_raw = tower.apply(
            params["student"], batch["tokens"], batch["mask"], rows, keys=batch.get("keys")
        )
        documents: tuple[jax.Array, ...] = ()
        ids = None
        if "top_emb" in batch:
            documents = (batch["top_emb"], batch["sample_emb"])
            ids = (batch["top_ids"], batch["sample_ids"])
        loss = partial(stage2_loss, cfg=cfg, ids=ids, covariance=shared.get("covariance"))
        vectors = (student_raw, batch["teacher_raw"])
        total, sums = matryoshka(loss, cfg.matryoshka)(*vectors, *documents)
        count = jnp.float32(student_raw.shape[0])
        figures = cone(*jax.lax.stop_gradient(vectors), shared["teacher_mean"])
        metrics = {"loss": (total, count)} | {k: (v, count) for k, v in sums.items()}
        return total / count, metrics | {k: (v, jnp.float32(1)) for k, v in figures.items()}

    batch = batch | _dropout_keys("keys", tower, (seed,), state.step, batch["tokens"].shape[:1])
    return _update(state, loss_fn, batch, tx, rows, cfg.accumulate)


def refine_step(
    state: TrainState,
    batch: Batch,
    *,
    tower: TowerDef,
    cfg: RefineConfig,
    matryoshka_sizes: tuple[int, ...],
    tx: optax.GradientTransformation,
    seed: int = 0,
    rows: Sharding | None = None,
) -> tuple[TrainState, Metrics]:
    """One step of stage 3.

    Args:
        state: parameters "student/…".
        batch: tokens, mask [B, L] in the student's own tokens; teacher_raw [B, D]; doc_emb
            [B, G, D], frozen unit vectors (of `encode.dim` components), the first of each group
            relevant; query_ids [B], doc_ids [B, G] and positive_ids [B, P], as for
            `contrastive_loss`.
        tower, cfg, matryoshka_sizes, tx: static; the sizes are stage 2's.
        seed: of dropout.
        rows: on a mesh, where the rows of a batch lie.
    """

    def loss_fn(trained: Flat, batch: Batch) -> tuple[jax.Array, Metrics]:
        params = nest(trained | state.frozen)
        student_raw = tower.apply(
            params["student"], batch["tokens"], batch["mask"], rows, keys=batch.get("keys")
        )
        loss = matryoshka(partial(refine_loss, cfg=cfg, batch=batch, rows=rows), matryoshka_sizes)
        total, sums = loss(student_raw, batch["teacher_raw"], batch["doc_emb"])
        count = jnp.float32(student_raw.shape[0])
        return total / count, {"loss": (total, count)} | {k: (v, count) for k, v in sums.items()}

    batch = batch | _dropout_keys("keys", tower, (seed,), state.step, batch["tokens"].shape[:1])
    return _update(state, loss_fn, batch, tx, rows, cfg.accumulate)


def refine_loss(
    student_raw: jax.Array,
    teacher_raw: jax.Array,
    doc_emb: jax.Array,
    *,
    cfg: RefineConfig,
    batch: Batch,
    rows: Sharding | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Stage 1's loss of queries against frozen documents, in that direction alone, plus `w_align`
    times 1 - cosine with the teacher; both summed over the B queries.
    """
    width = min(student_raw.shape[-1], doc_emb.shape[-1])
    contrastive = TrainConfig(
        symmetric=False, false_negative_margin=cfg.false_negative_margin, w_spread=0.0
    )
    loss = _unit_loss(contrastive, batch, jnp.float32(1 / cfg.temperature), rows)
    total, counts = loss(student_raw[..., :width], doc_emb[..., :width])
    cosine = jnp.einsum("bd,bd->b", normalise(student_raw), normalise(teacher_raw)).sum()
    sums = {
        "contrastive": total,
        "accuracy": counts["correct"],
        "negatives_per_query": counts["negatives"],
        "cosine": cosine,
    }
    return total + cfg.w_align * (len(student_raw) - cosine), sums


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


def _unit_loss(cfg: TrainConfig, batch: Batch, scale: jax.Array, rows: Sharding | None) -> Loss:
    """Stage 1's loss as a function of query_raw [B, D] and doc_raw [B, G, D]."""
    queries, group = batch["doc_ids"].shape
    mesh = cast(Mesh, rows.mesh) if isinstance(rows, NamedSharding) else None
    loss = stage1_loss(cfg, queries, queries * group, mesh)
    ids = {name: batch[name] for name in ("query_ids", "doc_ids", "positive_ids")}
    return lambda query_raw, doc_raw: loss(
        normalise(query_raw), normalise(doc_raw), **ids, scale=scale
    )


def _encode_documents(
    tower: TowerDef, params: dict[str, Any], batch: Batch, rows: Sharding | None, cfg: TrainConfig
) -> tuple[jax.Array, jax.Array | None]:
    """[B, G, D], before the L2 norm, of the documents and, if the batch says which tokens they are,
    of their titles.
    """
    packed = "doc_slots" in batch
    shape = batch["doc_tokens"].shape[:-1]  # [B, G] or, packed, [R]
    segments = batch["doc_segments" if packed else "doc_mask"]
    texts = (batch["doc_tokens"], segments, batch.get("doc_keys"), batch.get("doc_beginnings"))
    tokens, segments, keys, beginnings = jax.tree.map(
        lambda x: x.reshape(-1, *x.shape[len(shape) :]), texts
    )
    raw = encode_in_chunks(
        tower,
        params,
        tokens,
        segments,
        keys,
        rows,
        chunks=cfg.encode_chunks,
        texts_per_row=texts_per_row(tower.cfg.text) if packed else 0,
        beginnings=beginnings,
    )  # [B·G, D] or [R, S, D]; with beginnings, [B·G, 2, D] or [R, S, 2, D]
    if packed:
        raw = raw.reshape(-1, *raw.shape[2:])[batch["doc_slots"]]
    else:
        raw = raw.reshape(*shape, *raw.shape[1:])
    return (raw, None) if beginnings is None else (raw[:, :, 0], raw[:, :, 1])


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
