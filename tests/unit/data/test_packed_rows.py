"""Packed rows: several texts in one row give what each gives in a row of its own; and the embedding
table's lookup where it is split over a mesh.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from pair_batches import pair_batches
from small_towers import BERT, DECODER, define, random_params

from scalingnote_jax.config import MeshConfig
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.models.layers import ops
from scalingnote_jax.models.tower import TowerDef
from scalingnote_jax.text.tokens import TokenTable

TEXTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13, 14], [15]]
# Rows of 8: the texts 0, 1 and 3 in the first, text 2 in the second.
PLACES = [(0, 1), (0, 2), (1, 1), (0, 3)]


def packed() -> tuple[np.ndarray, np.ndarray]:
    tokens, segments = np.zeros((2, 8), np.int32), np.zeros((2, 8), np.int32)
    used = [0, 0]
    for text, (row, number) in zip(TEXTS, PLACES, strict=True):
        if number > 1:
            assert used[row]
        where = slice(used[row], used[row] + len(text))
        tokens[row, where], segments[row, where] = text, number
        used[row] += len(text)
    return tokens, segments


def padded() -> tuple[np.ndarray, np.ndarray]:
    tokens, mask = np.zeros((4, 5), np.int32), np.zeros((4, 5), bool)
    for i, text in enumerate(TEXTS):
        tokens[i, : len(text)], mask[i, : len(text)] = text, True
    return tokens, mask


def test_positions_start_anew() -> None:
    segments = jnp.asarray([[1, 1, 1, 2, 2, 3, 0, 0], [1, 1, 1, 1, 1, 0, 0, 0]])
    assert ops.positions_of(segments).tolist() == [
        [0, 1, 2, 0, 1, 0, 0, 1],
        [0, 1, 2, 3, 4, 0, 1, 2],
    ]


@pytest.mark.parametrize(
    ("shape", "pooling"),
    [(DECODER, "mean"), (DECODER, "last"), (BERT, "mean"), (BERT, "cls")],
    ids=["decoder-mean", "decoder-last", "bert-mean", "bert-cls"],
)
def test_a_text_is_the_same_in_a_packed_row(shape: Any, pooling: str) -> None:
    tower: TowerDef = define(shape, pooling=pooling, projection=8)
    params = random_params(tower)
    apply = jax.jit(tower.apply, static_argnums=(3, 4))
    alone = apply(params, *padded(), None, 0)
    together = apply(params, *packed(), None, 3)
    assert together.shape == (2, 3, 8)
    given = np.stack([together[row, number - 1] for row, number in PLACES])
    np.testing.assert_allclose(given, alone, atol=1e-5)


def test_a_packed_text_does_not_see_its_neighbour() -> None:
    tower = define(DECODER, pooling="mean")
    params = random_params(tower)
    tokens, segments = packed()
    before = tower.apply(params, tokens, segments, None, 3)
    tokens[0, 0] = 40  # in text 0
    after = tower.apply(params, tokens, segments, None, 3)
    assert not np.allclose(before[0, 0], after[0, 0], atol=1e-3)
    np.testing.assert_array_equal(before[0, 1:], after[0, 1:])


@pytest.mark.parametrize(
    "cfg",
    [
        MeshConfig(data=1, fsdp=8),
        MeshConfig(data=2, fsdp=2, tensor=2),
        MeshConfig(slice=2, data=1, fsdp=4),
        MeshConfig(data=4, tensor=2),
    ],
    ids=["fsdp", "all", "slices", "tensor"],
)
def test_look_up_in_a_split_table(cfg: MeshConfig) -> None:
    mesh = mesh_lib.make_mesh(cfg)
    rows = mesh_lib.batch_sharding(mesh)
    rng = np.random.default_rng(0)
    table = rng.normal(size=(32, 16)).astype(np.float32)
    tokens = rng.integers(0, 32, (8, 3)).astype(np.int32)
    weight = rng.normal(size=(8, 3, 16)).astype(np.float32)
    split = jax.device_put(table, NamedSharding(mesh, PartitionSpec("tensor", "fsdp")))

    def value(table: jax.Array, tokens: jax.Array, rows: Any) -> jax.Array:
        return jnp.sum(weight * ops.look_up(table, tokens, rows) ** 2)

    step = jax.jit(jax.value_and_grad(value), static_argnums=2)
    expected = step(table, tokens, None)
    given = step(split, jax.device_put(tokens, rows), rows)
    np.testing.assert_allclose(given[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(given[1], expected[1], atol=1e-5)


def test_an_unknown_id_gives_nan_on_a_mesh_too() -> None:
    mesh = mesh_lib.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    rows = mesh_lib.batch_sharding(mesh)
    tokens = np.array([[0], [31], [32], [5]], np.int32)
    x = jax.jit(ops.look_up, static_argnums=2)(np.ones((32, 4), np.float32), tokens, rows)
    assert np.isnan(x).all(axis=(1, 2)).tolist() == [False, False, True, False]
    assert np.isfinite(x[jnp.array([0, 1, 3])]).all()


@pytest.mark.parametrize("buckets", [(128, 256), (256,), (32, 64, 128, 256)])
def test_little_of_a_packed_batch_is_padding(buckets: tuple[int, ...]) -> None:
    """Whatever the buckets: 512 documents a batch, of 6 to 256 tokens, 70 on average."""
    n, size = 2048, 256
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(4.0, 0.7, n).astype(int), 6, 256)
    documents = TokenTable.from_lists([[1] * length for length in lengths.tolist()])
    groups = np.arange(n, dtype=np.int32)
    collection: Any = SimpleNamespace(
        doc_ids=[str(i) for i in groups],
        query_ids=[str(i) for i in groups],
        doc_groups=groups,
        doc_text_groups=n + groups,  # no document has a query's text
        query_groups=groups,
        qrels=lambda split: {str(i): {str(i): 1} for i in groups},
    )
    queries = TokenTable.from_lists([[1]] * n)
    sizes = {"batch_size": size, "negatives_per_query": 1, "bucket_window": 1, "seed": 0}
    tables = queries, documents
    made = pair_batches(collection, tables, ((1,), buckets), pack_rows_by=1, **sizes)
    batches = [made.batch(step) for step in range(8)]
    real = sum(np.count_nonzero(batch["doc_segments"]) for batch in batches)
    assert 1 - real / sum(batch["doc_tokens"].size for batch in batches) < 0.03
    assert len({batch["doc_tokens"].shape for batch in batches}) <= 6
