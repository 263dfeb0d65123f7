"""Stage 1: both LLM towers, trained contrastively end to end (paper, section 3.1). A baseline is
the same with other towers. The step first, then what it needs: batches, towers, first weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, Sharding

from scalingnote_jax.config import TowersConfig, TrainConfig
from scalingnote_jax.data.batches import BatchRules, PairSampler, PairTokens
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.data.members import Members, Mixing
from scalingnote_jax.data.negatives import Negatives
from scalingnote_jax.data.packing import Part, texts_per_row
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.losses.matryoshka import check_sizes, matryoshka
from scalingnote_jax.losses.query_prediction import (
    check_own_head,
    check_title_prediction,
    check_vocabularies,
    generative_loss,
)
from scalingnote_jax.models.chunks import encode_in_chunks
from scalingnote_jax.models.flops import batch_flops
from scalingnote_jax.models.layers.params import Flat, nest
from scalingnote_jax.models.pair import LOG_SCALE, Towers, capped, side_params
from scalingnote_jax.models.tower import TowerDef
from scalingnote_jax.models.weights.restore import Checkpoints
from scalingnote_jax.progress import say
from scalingnote_jax.text.contract import contract, token_table, tower_tokenizer
from scalingnote_jax.train.log.collapse import spread_figures
from scalingnote_jax.train.loop import Stage, fit
from scalingnote_jax.train.prepare import Prepared, Schedule, Step, check_batch, make_schedule
from scalingnote_jax.train.start import stage1_start
from scalingnote_jax.train.state import TrainState
from scalingnote_jax.train.step import Batch, Metrics, dropout_keys, unit_loss, update
from scalingnote_jax.workflow.engine import Place

# Of the queries, of the documents, and of the documents' tower as it predicts the queries
DROPOUT_KEYS = ("query_keys", "doc_keys", "predicted_keys")


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
        state: parameters "query/…" and "doc/…" (or "shared/…"), and "log_scale" [], frozen if the
            temperature is not learned.
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
        scale = jnp.exp(params[LOG_SCALE])
        loss = matryoshka(unit_loss(cfg, batch, scale, rows), cfg.matryoshka)
        total, counts = loss(query_raw, doc_raw)
        count = jnp.float32(query_raw.shape[0])
        metrics = {
            "accuracy": (counts["correct"], count),
            "negatives_per_query": (counts["negatives"], count),
            "logit_scale": (scale, jnp.float32(1)),
            **spread_figures("query", query_raw),
            **spread_figures("doc", doc_raw[:, 0]),  # each query's relevant one
        }
        if cfg.title_prediction == "contrastive":
            metrics["title_loss"] = (loss(query_raw, title_raw)[0], count)
        elif cfg.title_prediction == "generative":
            pairs = doc_raw[:, 0], batch["query_tokens"], batch["query_mask"]
            given: Any = {"chunks": cfg.encode_chunks, "keys": batch.get("predicted_keys")}
            predicted = generative_loss(doc_tower, doc_params, *pairs, rows, **given)
            metrics["title_loss"] = (predicted, count)
        if "title_loss" in metrics:
            total += cfg.w_title * metrics["title_loss"][0]
        metrics["loss"] = (total, count)
        return total / count, metrics

    size, documents = batch["query_tokens"].shape[:1], batch["doc_tokens"].shape[:-1]
    drops = ((query_tower, size), (doc_tower, documents), (doc_tower, size))
    for i, (name, (tower, shape)) in enumerate(zip(DROPOUT_KEYS, drops, strict=True)):
        batch = batch | dropout_keys(name, tower, (seed, i), state.step, shape)
    state, metrics = update(state, loss_fn, batch, tx, rows, cfg.accumulate)
    return replace(state, params=capped(state.params, cfg.max_logit_scale)), metrics


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
        texts_per_row=texts_per_row(tower.cfg.text.max_tokens) if packed else 0,
        beginnings=beginnings,
    )  # [B·G, D] or [R, S, D]; with beginnings, [B·G, 2, D] or [R, S, 2, D]
    if packed:
        raw = raw.reshape(-1, *raw.shape[2:])[batch["doc_slots"]]
    else:
        raw = raw.reshape(*shape, *raw.shape[1:])
    return (raw, None) if beginnings is None else (raw[:, :, 0], raw[:, :, 1])


@dataclass(frozen=True)
class Pairs:
    """What stage 1 learns from.

    Attributes:
        members: of a mixture; None: there is one collection.
        mined: hard negatives of the training queries.
    """

    collection: Collection
    members: Members | None = None
    mined: Negatives | None = None


@dataclass(frozen=True)
class Start:
    """What decides about the first weights, beside the towers' own config.

    Attributes:
        batch_size: for a fitted start, as in `EncodeConfig`.
        before: the folder of a training whose weights are the first ones here; None: the config's.
    """

    batch_size: int = 0
    before: Path | None = None


def pair_sampler(
    cfg: TrainConfig, teacher: TowersConfig, seed: int, pairs: Pairs, tokens: Path, mesh: Mesh
) -> PairSampler:
    """Batches of stage 1, tokens included.

    Args:
        tokens: the folder of token tables.
    """
    query, doc, collection = teacher.query, teacher.doc, pairs.collection
    queries = (("", q.text) for q in collection.queries)
    documents = ((d.title, d.text) for d in collection.documents)
    key = collection.fingerprint
    tables = PairTokens(
        token_table(queries, query, tower_tokenizer(query), tokens, f"{key}-queries"),
        token_table(
            documents,
            doc,
            tower_tokenizer(doc),
            tokens,
            f"{key}-documents",
            title_ends=cfg.title_prediction == "contrastive",
        ),
        query.text.buckets,
        doc.text.buckets,
    )
    index, count = mesh_lib.batch_part(mesh)
    # What the rows of a process must be a multiple of, for the mesh and the chunks to split
    multiple = max(1, mesh_lib.batch_shards(mesh) // count) * cfg.encode_chunks
    rows_by = multiple if cfg.pack_documents else 0
    part = Part(index, count, rows_by, partial(mesh_lib.own_rows, mesh))
    rules = BatchRules(cfg.batch_size, cfg.negatives_per_query, cfg.bucket_window, seed)
    mixing = None
    if pairs.members:
        mixing = Mixing(pairs.members, cfg.mixture_weights, cfg.single_collection_batches)
    return PairSampler(collection, tables, rules, part, pairs.mined, mixing)


def program(
    cfg: TrainConfig, teacher: TowersConfig, seed: int, mesh: Mesh, steps_per_epoch: int
) -> tuple[Towers, Schedule, Prepared, Step]:
    """What runs on the devices: the towers, their abstract state and its places on the mesh, and
    the jitted step. Needs no data and no weights.
    """
    towers = Towers(teacher)
    check_sizes("--train.matryoshka", cfg.matryoshka, towers.doc.dim)
    check_title_prediction(cfg, towers.doc)
    schedule = make_schedule("train", cfg, steps_per_epoch)
    shapes, axes = towers.abstract()
    freeze = towers.freeze(cfg.learn_temperature)
    prepared = Prepared("teacher", shapes, axes, freeze, cfg, schedule, mesh)
    step = prepared.jit(
        contrastive_step, query_tower=towers.query, doc_tower=towers.doc, cfg=cfg, seed=seed
    )
    return towers, schedule, prepared, step


def build(
    cfg: TrainConfig,
    teacher: TowersConfig,
    seed: int,
    pairs: Pairs,
    start: Start,
    place: Place,
) -> Stage:
    """Everything of stage 1 but the weights."""
    mesh, tokens = place.mesh, place.workdir.tokens
    check_batch("train", cfg, mesh)
    check_own_head(cfg, teacher.doc)
    sampler = pair_sampler(cfg, teacher, seed, pairs, tokens, mesh)
    towers, schedule, prepared, step = program(cfg, teacher, seed, mesh, sampler.steps_per_epoch)
    contracts = {
        side: contract(tower, tower_tokenizer(tower.cfg))
        for side, tower in (("query", towers.query), ("doc", towers.doc))
    }
    check_vocabularies(cfg, *(contracts[s]["tokenizer"] for s in ("query", "doc")))
    given = cfg, towers, pairs.collection, prepared, seed, start.batch_size
    initial = stage1_start(*given)
    if start.before is not None:
        initial = partial(trained_weights, start.before, prepared)
    return Stage(
        name="train",
        folder=place.folder,
        prepared=prepared,
        step=step,
        initial=initial,
        sampler=sampler,
        schedule=schedule,
        meta={"inputs": place.inputs, "contracts": contracts},
        flops=batch_flops(cfg, towers, prepared.abstract.params),
    )


def trained_weights(folder: Path, prepared: Prepared) -> Flat:
    """All parameters of a finished training of the same towers, on the mesh."""
    checkpoints = Checkpoints(folder / "checkpoints")
    try:
        step = checkpoints.latest_step()
        assert step is not None, "a finished training has a checkpoint"
        like = prepared.abstract.params | prepared.abstract.frozen
        spread = prepared.shardings.params | prepared.shardings.frozen
        return checkpoints.restore_params(step, like, spread)
    finally:
        checkpoints.close()


def train(
    cfg: TrainConfig,
    teacher: TowersConfig,
    seed: int,
    pairs: Pairs,
    start: Start,
    place: Place,
) -> TrainState:
    """Runs stage 1 to its end, from the newest checkpoint if there is one."""
    size, group, devices = cfg.batch_size, 1 + cfg.negatives_per_query, place.mesh.size
    say(f"train: {size} queries × {size * group} documents a step over {devices} devices")
    return fit(build(cfg, teacher, seed, pairs, start, place))
