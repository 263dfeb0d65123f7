"""How much of a batch of documents is padding: packed rows against length buckets.

Host work only: no tower runs. The texts are the docstrings of the installed packages, in SmolLM2's
tokens, at most 256 of them, 64 documents a batch; buckets of 32, 64, 128 and 256 tokens, sorted by
length within windows of 16 batches (what the default config does), and not sorted.

    python tests/bench/packing.py
"""

from __future__ import annotations

import os

os.environ["JAX_PLATFORMS"] = "cpu"

import tempfile
from pathlib import Path

import numpy as np
from common import last_line, machine

from scalingnote_jax.config import (
    DataConfig,
    MeshConfig,
    TextConfig,
    TowerConfig,
    TowersConfig,
    TrainConfig,
    replace,
)
from scalingnote_jax.data.collection import Collection
from scalingnote_jax.data.dataset import build_dataset
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.train.stage1 import Pairs, pair_sampler
from scalingnote_jax.workflow.workdir import Workdir


def towers() -> TowersConfig:
    """The default towers with documents of up to 256 tokens."""
    query = TowerConfig(text=TextConfig(max_tokens=32, buckets=(32,)))
    doc = replace(query, text=TextConfig(max_tokens=256, buckets=(32, 64, 128, 256)))
    return TowersConfig(query, doc)


def padding(train: TrainConfig, workdir: Workdir) -> tuple[float, int]:
    """The share of an epoch's document tokens that is padding, and the number of batch shapes."""
    pairs, mesh = Pairs(Collection.open(workdir.data)), make_mesh(MeshConfig())
    sampler = pair_sampler(train, towers(), 0, pairs, workdir.tokens, mesh)
    real = everything = 0
    shapes = set()
    for step in range(sampler.steps_per_epoch):
        batch = sampler.batch(step)
        real += np.count_nonzero(batch.get("doc_segments", batch.get("doc_mask")))
        everything += batch["doc_tokens"].size
        shapes.add(batch["doc_tokens"].shape)
    return 1 - real / everything, len(shapes)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        workdir = Workdir(Path(folder))
        build_dataset(DataConfig(source="pydocs"), workdir.data)
        ways = {
            "packed": TrainConfig(batch_size=64, pack_documents=True),
            "buckets": TrainConfig(batch_size=64, bucket_window=16),
            "buckets_unsorted": TrainConfig(batch_size=64, bucket_window=1),
        }
        shares = {}
        for name, train in ways.items():
            shares[name], shapes = padding(train, workdir)
            print(f"{name:18} {shares[name]:6.1%} padding, {shapes} shapes", flush=True)
    rest = {name: round(share, 4) for name, share in shares.items()}
    last_line(
        "packing",
        round(shares["packed"], 4),
        round(shares["buckets"], 4),
        "share of document tokens that is padding",
        less_is_better=True,
        **rest,
        machine=machine("jax"),
    )


if __name__ == "__main__":
    main()
