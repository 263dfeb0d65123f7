"""Our side of the training bench, in a process of its own, and what is made for both beforehand."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import numpy as np
from _train_common import BATCH, MATMUL, RATE, SCALE, SHOWN, Meter, pairs_of


def config(model: common.Result) -> Any:
    """Our config of the comparison."""
    from scalingnote_jax import config as c

    longest = model["tokens"]
    doc_text = c.TextConfig(max_tokens=longest, buckets=tuple(range(16, longest + 1, 16)))
    fine = (b for b in (8, 16, 24, 32, 48, 64, 96, 128) if b <= longest)
    query_text = c.TextConfig(max_tokens=longest, buckets=tuple(fine))
    query, doc = (c.TowerConfig(weights=model["weights"], text=t) for t in (query_text, doc_text))
    return c.Config(
        name="bench",
        seed=model["seed"],
        data=c.DataConfig(source="pydocs", packages=("numpy", "scipy", "transformers")),
        teacher=c.TowersConfig(query=query, doc=doc, share=True),
        train=c.TrainConfig(
            batch_size=BATCH,
            symmetric=False,
            temperature=1 / SCALE,
            learn_temperature=False,
            pack_documents=True,
            bucket_window=model["window"],
            optim=c.OptimConfig(learning_rate=RATE, warmup="0 steps", schedule="constant"),
        ),
    )


def stage_of(model: common.Result) -> tuple[Any, Any]:
    """Our stage, built as `scalingnote train` does, and its data."""
    from scalingnote_jax.data.collection import Collection
    from scalingnote_jax.data.dataset import build_dataset
    from scalingnote_jax.devices import mesh as mesh_lib
    from scalingnote_jax.train.stage1 import Pairs, Start, build
    from scalingnote_jax.workflow.engine import Place
    from scalingnote_jax.workflow.workdir import Workdir

    mesh_lib.start()
    cfg, workdir = config(model), Workdir(model["folder"])
    if not workdir.data.is_dir():
        build_dataset(cfg.data, workdir.data)
    collection = Collection.open(workdir.data)
    place = Place(workdir.teacher, workdir, mesh_lib.make_mesh(cfg.mesh), "bench")
    stage = build(cfg.train, cfg.teacher, cfg.seed, Pairs(collection), Start(), place)
    return stage, collection


def prepare(model: common.Result, turns: common.Turns) -> None:
    """Data and tokens, and what the peer reads: weights, and the pairs in the order of ours."""
    from scalingnote_jax.config import BertShape
    from scalingnote_jax.hub import locate
    from scalingnote_jax.models.weights.pretrained import shape_of

    for seed in itertools.count():
        model["seed"] = seed
        stage, collection = stage_of(model)
        if only_own_positives(stage.sampler.batch(0)):
            break
    rows = [stage.sampler.rows(step) for step in range(stage.sampler.steps_per_epoch)]
    queries = np.concatenate([q for q, _ in rows])
    docs = np.concatenate([d[:, 0] for _, d in rows])
    pairs = {
        "anchor": [collection.queries[int(row)].text for row in queries],
        "positive": [collection.documents[int(row)].text for row in docs],
    }
    folder = Path(model["folder"])
    (folder / "pairs.json").write_text(json.dumps(pairs))
    bert = isinstance(shape_of(model["weights"]), BertShape)
    weights = locate(model["weights"]) if bert else save_llama(model["weights"], folder / "weights")
    turns.hand_over(peer_weights=str(weights), seed=seed)


def only_own_positives(batch: dict[str, np.ndarray]) -> bool:
    """Whether no document of the batch is another query's too: then the losses are the same. Ours
    leaves such a document out, the peer's takes it for a negative.
    """
    known = (batch["positive_ids"][:, None, :] == batch["doc_ids"][None, :, :1]).any(-1)
    return bool((known == np.eye(len(known), dtype=bool)).all())


def save_llama(weights: str, folder: Path) -> Path:
    """Our weights and tokenizer as a folder that `transformers` reads."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    from scalingnote_jax.models.weights.pretrained import open_weights
    from scalingnote_jax.text.tokenizer import load_tokenizer

    source = open_weights(weights)
    shape: Any = source.shape
    cfg = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        rms_norm_eps=shape.norm_eps,
    )
    body = LlamaModel(cfg)
    body.load_state_dict({name: torch.from_numpy(source.read(name)) for name in source.names})
    body.save_pretrained(folder)
    load_tokenizer(weights).save(folder)
    return folder


def ours(model: common.Result, turns: common.Turns) -> None:
    """`fit` as it is, on a step that was compiled before and hands over at the end of a turn."""
    import jax

    from scalingnote_jax.models.tower import tower_def
    from scalingnote_jax.train.loop import fit

    stage, _ = stage_of(model)
    tower = tower_def(config(model).teacher.query)
    emb = our_vectors(model, tower, stage.initial())
    square, product = jax.numpy.ones((MATMUL, MATMUL)), jax.jit(jax.numpy.matmul)
    meter = Meter(
        turns,
        tower.num_params(non_embedding=True),
        lambda: product(square, square).block_until_ready(),
    )
    began = time.perf_counter()
    programs = compile_all(stage)
    compile_secs = round(time.perf_counter() - began, 1)
    setup = {"emb": emb, "programs": len(programs), "compile_secs": compile_secs}
    done = 0

    def step(state: Any, batch: Any) -> Any:
        nonlocal done
        state, metrics = programs[shapes(batch)](state, batch)
        if done == 0:  # the first touches all memory, and gives the loss
            turns.hand_over(**setup, loss=float(metrics["loss"][0] / metrics["loss"][1]))
            meter.start()
        else:
            meter.step()
            meter.tokens(batch["query_mask"])
            meter.tokens(batch["doc_segments"] > 0)
            if done % model["turn"] == 0:
                jax.block_until_ready(state)
                meter.stop()
        done += 1
        return state, metrics

    fit(replace(stage, step=step))


def shapes(batch: Any) -> tuple[tuple[int, ...], ...]:
    """What decides on the program of a batch."""
    return tuple(batch[name].shape for name in sorted(batch))


def compile_all(stage: Any) -> dict[tuple[tuple[int, ...], ...], Any]:
    """The programs of an epoch's batches, by their shapes."""
    from scalingnote_jax.devices import mesh as mesh_lib

    programs: dict[tuple[tuple[int, ...], ...], Any] = {}
    for step in range(stage.sampler.steps_per_epoch):
        batch = stage.sampler.batch(step)
        if shapes(batch) not in programs:
            put = mesh_lib.put_batch(batch, stage.prepared.mesh)
            programs[shapes(batch)] = stage.step.lower(stage.prepared.abstract, put).compile()
    return programs


def our_vectors(model: common.Result, tower: Any, params: dict[str, Any]) -> list[list[float]]:
    """Unit vectors [SHOWN, D] of the first positives."""
    import jax

    from scalingnote_jax.models.layers.params import nest
    from scalingnote_jax.models.tower import normalise
    from scalingnote_jax.text.tokenizer import load_tokenizer
    from scalingnote_jax.text.tokens import TokenTable

    texts = pairs_of(model)["positive"][:SHOWN]
    rows = load_tokenizer(model["weights"]).encode(texts, model["tokens"])
    tokens, mask = TokenTable.from_lists(rows).take(np.arange(SHOWN), model["tokens"])
    read = {path: np.asarray(weight) for path, weight in params.items()}
    raw = jax.jit(tower.apply)(nest(read)["shared"], tokens, mask)
    return np.asarray(normalise(raw)).tolist()


if __name__ == "__main__":
    given = common.task()
    assert given is not None, "run train.py"
    {"prepare": prepare, "ours": ours}[given["side"]](given, common.Turns())
