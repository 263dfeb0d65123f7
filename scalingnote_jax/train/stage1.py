"""Stage 1: both LLM towers, trained contrastively end to end (paper, section 3.1). A baseline is
the same with other towers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from jax.sharding import Mesh

from scalingnote_jax.config import Config
from scalingnote_jax.data.batches import PairSampler
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.data.members import Members, Mixing
from scalingnote_jax.data.negatives import Negatives
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.devices.mesh import batch_shards
from scalingnote_jax.losses.matryoshka import check_sizes
from scalingnote_jax.losses.query_prediction import check_title_prediction, check_vocabularies
from scalingnote_jax.models.layers.params import Flat
from scalingnote_jax.models.pair import Towers
from scalingnote_jax.models.weights.checkpoint import Checkpoints
from scalingnote_jax.progress import say
from scalingnote_jax.text.contract import contract, token_table, tower_tokenizer
from scalingnote_jax.train.loop import Stage, fit
from scalingnote_jax.train.prepare import Prepared, Schedule, Step, check_batch, make_schedule
from scalingnote_jax.train.query_start import aligned_start, check_aligned
from scalingnote_jax.train.state import TrainState
from scalingnote_jax.train.step import contrastive_step
from scalingnote_jax.workflow.workdir import Workdir


def pair_sampler(
    config: Config,
    collection: Collection,
    workdir: Workdir,
    mesh: Mesh,
    mined: Negatives | None = None,
) -> PairSampler:
    """Batches of stage 1, tokens included."""
    query, doc = config.teacher.query, config.teacher.doc
    queries = (("", q.text) for q in collection.queries)
    documents = ((d.title, d.text) for d in collection.documents)
    key = collection.fingerprint
    members = Members.of(config.data, collection)
    weights, single = config.train.mixture_weights, config.train.single_collection_batches
    part, parts = mesh_lib.batch_part(mesh)
    return PairSampler(
        collection,
        "train",
        token_table(queries, query, tower_tokenizer(query), workdir.tokens, f"{key}-queries"),
        token_table(
            documents,
            doc,
            tower_tokenizer(doc),
            workdir.tokens,
            f"{key}-documents",
            title_ends=config.train.title_prediction == "contrastive",
        ),
        query.text.buckets,
        doc.text.buckets,
        config.train.batch_size,
        config.train.negatives_per_query,
        config.train.bucket_window,
        config.seed,
        process_index=part,
        process_count=parts,
        pack_rows_by=_rows_per_process(config, mesh) if config.train.pack_documents else 0,
        own_rows=partial(mesh_lib.own_rows, mesh),
        mined=mined,
        mixing=Mixing(members, weights, single) if members else None,
    )


def _rows_per_process(config: Config, mesh: Mesh) -> int:
    """What the rows of a process must be a multiple of, for the mesh and the chunks to split."""
    return max(1, batch_shards(mesh) // mesh_lib.batch_part(mesh)[1]) * config.train.encode_chunks


def program(
    config: Config, mesh: Mesh, steps_per_epoch: int
) -> tuple[Towers, Schedule, Prepared, Step]:
    """What runs on the devices: the towers, their abstract state and its places on the mesh, and
    the jitted step. Needs no data and no weights.
    """
    towers = Towers(config.teacher)
    check_sizes("--train.matryoshka", config.train.matryoshka, towers.doc.dim)
    check_title_prediction(config.train, towers.doc)
    schedule = make_schedule("train", config.train, steps_per_epoch)
    shapes, axes = towers.abstract()
    freeze = towers.freeze(config.train.learn_temperature)
    prepared = Prepared("teacher", shapes, axes, freeze, config.train, schedule, mesh)
    step = prepared.jit(
        contrastive_step,
        query_tower=towers.query,
        doc_tower=towers.doc,
        cfg=config.train,
        seed=config.seed,
    )
    return towers, schedule, prepared, step


def build(
    config: Config,
    collection: Collection,
    workdir: Workdir,
    mesh: Mesh,
    inputs: str,
    mined: Negatives | None = None,
    before: Path | None = None,
) -> Stage:
    """Everything of stage 1 but the weights: what `--dry-run` shows and `train` runs."""
    check_batch("train", config.train, mesh)
    check_aligned(config)
    sampler = pair_sampler(config, collection, workdir, mesh, mined)
    towers, schedule, prepared, step = program(config, mesh, sampler.steps_per_epoch)
    contracts = {
        side: contract(tower, tower_tokenizer(tower.cfg))
        for side, tower in (("query", towers.query), ("doc", towers.doc))
    }
    check_vocabularies(config.train, *(contracts[s]["tokenizer"] for s in ("query", "doc")))
    initial: Callable[[], Flat] = partial(towers.initial, config.seed, config.train.temperature)
    if before is not None:
        initial = partial(trained_weights, before, prepared)
    elif config.train.fit_query_projection:
        judged = collection.qrels("train")
        texts = [q.text for q in collection.queries if q.id in judged]
        initial = partial(aligned_start, config, towers, texts, prepared, initial)
    return Stage(
        name="train",
        folder=workdir.teacher,
        prepared=prepared,
        step=step,
        initial=initial,
        sampler=sampler,
        schedule=schedule,
        meta={"inputs": inputs, "contracts": contracts},
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
    config: Config,
    collection: Collection,
    workdir: Workdir,
    mesh: Mesh,
    inputs: str,
    mined: Negatives | None = None,
    before: Path | None = None,
) -> TrainState:
    """Runs stage 1 to its end, from the newest checkpoint if there is one.

    Args:
        mined: hard negatives of the training queries.
        before: the folder of a training whose weights are the first ones here; None: the config's.
    """
    documents = config.train.batch_size * (1 + config.train.negatives_per_query)
    queries = config.train.batch_size
    say(f"train: {queries} queries × {documents} documents a step over {mesh.size} devices")
    return fit(build(config, collection, workdir, mesh, inputs, mined, before))
