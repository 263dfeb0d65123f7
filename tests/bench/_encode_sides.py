"""The two sides of the encoding bench, each run in a process of its own by `encode.py`, and what is
made for them beforehand.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
from _train_common import MATMUL, flops_per_sec
from _train_ours import save_llama
from _train_peer import peer_tower

PEER_BATCH_SIZES = (16, 32, 64)
TRIAL = 6  # the peer's batch sizes are tried on one document in so many


def prepare(model: common.Result, turns: common.Turns) -> None:
    """The texts, and the weights as the peer reads them."""
    from scalingnote_jax.config import BertShape, DataConfig
    from scalingnote_jax.data.collection import Collection
    from scalingnote_jax.data.dataset import build_dataset
    from scalingnote_jax.hub import locate
    from scalingnote_jax.models.weights.pretrained import shape_of

    folder = Path(model["folder"])
    if not (folder / "data").is_dir():
        packages = ("numpy", "scipy", "transformers")
        build_dataset(DataConfig(source="pydocs", packages=packages), folder / "data")
    documents = Collection.open(folder / "data").documents
    chosen = np.random.default_rng(0).choice(len(documents), model["documents"], replace=False)
    texts = [documents[int(row)].text for row in np.sort(chosen)]
    (folder / "texts.json").write_text(json.dumps(texts))
    bert = isinstance(shape_of(model["weights"]), BertShape)
    weights = locate(model["weights"]) if bert else save_llama(model["weights"], folder / "weights")
    turns.hand_over(peer_weights=str(weights))


def ours(model: common.Result, turns: common.Turns) -> None:
    """The encoder of `scalingnote encode`, on pretrained weights instead of a checkpoint's."""
    import jax

    from scalingnote_jax import config as c
    from scalingnote_jax.devices import mesh as mesh_lib
    from scalingnote_jax.devices.sharding import shardings_of
    from scalingnote_jax.models.layers.params import flatten, nest
    from scalingnote_jax.models.tower import tower_def
    from scalingnote_jax.models.weights.placing import place
    from scalingnote_jax.text.contract import tower_tokenizer
    from scalingnote_jax.vectors.encoder import Encoder

    mesh_lib.start()
    longest = model["tokens"]
    cfg = c.TowerConfig(
        weights=model["weights"],
        dtype=model["dtype"],
        text=c.TextConfig(max_tokens=longest, buckets=(longest // 4, longest // 2, longest)),
    )
    tower, mesh = tower_def(cfg), mesh_lib.make_mesh(c.MeshConfig())
    shapes, axes = tower.abstract()
    shardings = shardings_of(flatten(shapes), flatten(axes), mesh)
    params = nest(place(flatten(tower.stored_params(0)), shardings))
    encoder = Encoder(tower, params, tower_tokenizer(cfg), mesh, c.EncodeConfig().batch_size)
    meter = Meter(tower.num_params(non_embedding=True))
    apply = encoder._apply

    def counted(params: Any, tokens: Any, mask: Any) -> Any:
        meter.batch(tokens.shape)
        return apply(params, tokens, mask)

    encoder._apply = counted
    square, product = jax.numpy.ones((MATMUL, MATMUL)), jax.jit(jax.numpy.matmul)

    def encode() -> np.ndarray:
        return encoder.unit(encoder.encode(texts))

    texts = texts_of(model)
    began = time.perf_counter()
    vectors = encode()
    first_secs = round(time.perf_counter() - began, 1)
    path = save(model, "ours", vectors)
    turns.hand_over(vectors=path, first_secs=first_secs, shapes=len(meter.shapes))
    real = int(encoder_tokens(encoder, texts))
    meter.turns(
        turns, encode, len(texts), real, lambda: product(square, square).block_until_ready()
    )


def encoder_tokens(encoder: Any, texts: list[str]) -> int:
    """Tokens of all texts, as our tower cuts them."""
    from scalingnote_jax.text.contract import tokens_of

    table = tokens_of([("", text) for text in texts], encoder.tower.cfg, encoder.tokenizer)
    return int(table.lengths.sum())


def peer(model: common.Result, turns: common.Turns) -> None:
    """`SentenceTransformer.encode`, with the best of its batch sizes."""
    import torch

    tower, texts = peer_tower(model).to(getattr(torch, model["dtype"])), texts_of(model)
    body = [p.numel() for name, p in tower.named_parameters() if ".embed" not in name]
    meter = Meter(sum(body))
    real = 0
    preprocess = tower.preprocess

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal real
        features = preprocess(*args, **kwargs)
        meter.batch(features["input_ids"].shape)
        real += int(features["attention_mask"].sum())
        return features

    tower.preprocess = counted
    by_size = {}
    for size in PEER_BATCH_SIZES:
        part = texts[::TRIAL]
        began = time.perf_counter()
        tower.encode(part, batch_size=size, show_progress_bar=False)
        by_size[size] = round(len(part) / (time.perf_counter() - began), 2)
    best = max(by_size, key=by_size.__getitem__)

    def encode() -> np.ndarray:
        vectors = tower.encode(
            texts, batch_size=best, show_progress_bar=False, convert_to_tensor=True
        )
        return vectors.float().numpy()

    real = 0
    path = save(model, "peer", encode())
    square = torch.ones(MATMUL, MATMUL)
    turns.hand_over(vectors=path, docs_per_sec_by_batch_size=by_size)
    meter.turns(turns, encode, len(texts), real, lambda: square @ square)


class Meter:
    """What a turn measures, the same on both sides."""

    def __init__(self, num_params: int):
        """`num_params` without embedding tables."""
        self.num_params, self.tokens = num_params, 0
        self.shapes: set[tuple[int, ...]] = set()

    def batch(self, shape: tuple[int, ...]) -> None:
        """Counts the tokens of a batch [B, L], padding included."""
        self.tokens += int(np.prod(shape))
        self.shapes.add(tuple(shape))

    def turns(
        self,
        turns: common.Turns,
        encode: Callable[[], Any],
        docs: int,
        real: int,
        multiply: Callable[[], Any],
    ) -> None:
        """Runs `encode` once a turn, for ever. `real`: tokens of all documents."""
        while True:
            self.tokens = 0
            began, cpu_began = time.perf_counter(), time.process_time()
            encode()
            secs, cpu_secs = time.perf_counter() - began, time.process_time() - cpu_began
            peak = flops_per_sec(multiply)
            turns.hand_over(
                docs_per_sec=docs / secs,
                docs_per_cpu_sec=docs / cpu_secs,  # less disturbed by others at work
                real_tokens_per_sec=real / secs,
                padding=1 - real / self.tokens,
                matmul_gflops=peak / 1e9,
                # A multiplication and an addition per weight
                share_of_matmul=2 * self.num_params * self.tokens / secs / peak,
                share_of_matmul_by_real_tokens=2 * self.num_params * real / secs / peak,
            )


def texts_of(model: common.Result) -> list[str]:
    """The documents."""
    return json.loads((Path(model["folder"]) / "texts.json").read_text())


def save(model: common.Result, side: str, vectors: np.ndarray) -> str:
    """Keeps vectors for the parent; returns where."""
    path = Path(model["folder"]) / f"{side}_{model['dtype']}.npy"
    np.save(path, vectors)
    return str(path)


if __name__ == "__main__":
    given = common.task()
    assert given is not None, "run encode.py"
    {"prepare": prepare, "ours": ours, "peer": peer}[given["side"]](given, common.Turns())
