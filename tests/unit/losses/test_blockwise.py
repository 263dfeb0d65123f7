"""The tiled loss against the reference: value, gradient and counts on several meshes, its memory,
and a whole step with it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run_parts import first_stage
from test_losses import batch

from scalingnote_jax.config import Config, MeshConfig, TextConfig, TrainConfig, replace
from scalingnote_jax.config.load import load_config
from scalingnote_jax.config.validate import validate
from scalingnote_jax.data.collection import Collection
from scalingnote_jax.data.dataset import build_dataset
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import UserError
from scalingnote_jax.losses.blockwise import blockwise_loss
from scalingnote_jax.losses.contrastive import contrastive_loss
from scalingnote_jax.losses.contrastive_form import held_score_bytes, is_blockwise
from scalingnote_jax.workflow.workdir import Workdir

TOLERANCE = 1e-5
TWO, FOUR, EIGHT = MeshConfig(data=2), MeshConfig(fsdp=2), MeshConfig(data=2, fsdp=2, tensor=2)
SLICES = MeshConfig(slice=2, data=1, fsdp=4)
EVERYTHING = {"symmetric": True, "false_negative_margin": 0.2, "w_spread": 0.5}


def mesh_of(cfg: MeshConfig | None, devices: int = 8) -> Any:
    return None if cfg is None else mesh_lib.make_mesh(cfg, jax.devices()[:devices])


def value_and_grad(loss: Any, b: dict[str, Any], over: Any, scale: float, **options: Any) -> Any:
    """((mean loss, counts), gradients by queries, documents and scale), rows over a mesh `over`."""
    if over is not None:
        b = {k: jax.device_put(v, mesh_lib.batch_sharding(over)) for k, v in b.items()}
    rest = {k: v for k, v in b.items() if not k.endswith("emb")}

    def mean_loss(query_emb, doc_emb, scale):
        total, counts = loss(query_emb, doc_emb, **rest, scale=scale, **options)
        return total / len(query_emb), counts

    f = jax.jit(jax.value_and_grad(mean_loss, argnums=(0, 1, 2), has_aux=True))
    return f(b["query_emb"], b["doc_emb"], jnp.float32(scale))


def assert_equal(given: Any, expected: Any) -> None:
    def compare(a: Any, e: Any) -> None:
        np.testing.assert_allclose(a, e, rtol=TOLERANCE, atol=TOLERANCE)

    jax.tree.map(compare, given, expected)


def assert_equals_the_reference(
    b: dict[str, Any], mesh: Any, tile: int, scale: float = 5.0, **options: Any
) -> None:
    ours = partial(blockwise_loss, mesh=mesh, tile=tile)
    given = value_and_grad(ours, b, mesh, scale, **options)
    assert_equal(given, value_and_grad(contrastive_loss, b, None, scale, **options))


@pytest.mark.parametrize("margin", [None, 0.2])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group", [1, 3])
def test_equals_the_reference_on_eight_devices(group, symmetric, margin):
    # 24 queries: three on each device, two of them (or one group of each device) in a tile.
    b = batch(np.random.default_rng(group), queries=24, group=group, documents=30)
    options = {"symmetric": symmetric, "false_negative_margin": margin}
    assert_equals_the_reference(b, mesh_of(EIGHT), 16, **options)


@pytest.mark.parametrize(
    ("cfg", "devices", "queries"),
    [(None, 1, 13), (TWO, 2, 14), (EIGHT, 8, 12), (SLICES, 8, 16)],
    ids=["one", "two", "tensor with copies", "slices"],
)
def test_equals_the_reference_on_any_mesh(cfg, devices, queries):
    b = batch(np.random.default_rng(devices), queries=queries, group=3, documents=60)
    assert_equals_the_reference(b, mesh_of(cfg, devices), 12, **EVERYTHING)


@pytest.mark.parametrize("tile", [1, 7, 10_000])
def test_any_tile_gives_the_same(tile):
    b = batch(np.random.default_rng(5), queries=10, group=2, documents=30)
    assert_equals_the_reference(b, None, tile, **EVERYTHING)


def test_the_margin_changes_these_batches():
    # Else the tests above would say nothing about it.
    b = batch(np.random.default_rng(1), queries=24, documents=30)
    cosines = np.einsum("bd,cgd->bcg", b["query_emb"], b["doc_emb"])
    own = np.einsum("bd,bd->b", b["query_emb"], b["doc_emb"][:, 0])
    assert 0.1 < (cosines > own[:, None, None] + 0.2).mean() < 0.9


def test_scores_far_apart_neither_overflow_nor_vanish():
    # Scale 100: the first query scores -100 with its positive and 100 with all else, a loss of 200
    # and no exponential of which float32 can hold; the others score 100 and -100.
    b = batch(np.random.default_rng(2), queries=8, group=1)
    line = np.where(np.arange(8) == 0, -1.0, 1.0)[:, None].astype(np.float32)
    b |= {"query_emb": line[::-1] * [1.0], "doc_emb": -line[:, None]}
    b |= {"query_ids": np.arange(8), "doc_ids": np.arange(8)[:, None]}
    b["positive_ids"] = b["doc_ids"]
    b = {k: np.asarray(v, np.float32 if k.endswith("emb") else np.int32) for k, v in b.items()}
    (loss, _), _ = value_and_grad(blockwise_loss, b, None, 100.0, symmetric=True)
    assert np.isfinite(loss)
    assert loss > 100
    assert_equals_the_reference(b, mesh_of(FOUR, 2), 2, scale=100.0, symmetric=True)


def test_a_batch_of_one_document_has_no_loss_and_no_gradient():
    b = batch(np.random.default_rng(0), queries=16)
    b["doc_ids"][:] = 4
    b["positive_ids"][:, 0] = 4
    mesh = mesh_of(SLICES)
    ours = partial(blockwise_loss, mesh=mesh)
    (loss, counts), grads = value_and_grad(ours, b, mesh, 20.0, symmetric=True)
    assert loss == 0.0
    assert counts["negatives"] == 0
    for grad in grads:
        np.testing.assert_array_equal(grad, jnp.zeros_like(grad))


def temporaries(loss: Any, queries: int, devices: int, **options: Any) -> int:
    """Bytes a device that the compiler asks for value and gradient; nothing is allocated."""
    mesh = mesh_of(MeshConfig(), devices)
    rows = mesh_lib.batch_sharding(mesh)
    shapes = {"query_emb": (128,), "doc_emb": (2, 128), "query_ids": (), "doc_ids": (2,)}
    dtypes = {"query_emb": jnp.float32, "doc_emb": jnp.float32}
    b = {
        name: jax.ShapeDtypeStruct((queries, *rest), dtypes.get(name, jnp.int32))
        for name, rest in (shapes | {"positive_ids": (2,)}).items()
    }

    def both(query_emb, doc_emb, rest):
        def total(q, d):
            return loss(q, d, **rest, scale=20.0, symmetric=True, w_spread=0.1, **options)[0]

        return jax.value_and_grad(total, argnums=(0, 1))(query_emb, doc_emb)

    f = jax.jit(both, in_shardings=rows, out_shardings=(mesh_lib.replicated(mesh), rows))
    vectors = (b.pop("query_emb"), b.pop("doc_emb"))
    return f.lower(*vectors, b).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_memory_grows_as_rows_over_devices():
    def ours(queries: int, devices: int) -> int:
        mesh = mesh_of(MeshConfig(), devices)
        return temporaries(blockwise_loss, queries, devices, mesh=mesh, tile=512)

    base = ours(8192, 4)
    assert ours(16384, 4) < 2.1 * base
    assert ours(16384, 8) < 1.1 * base
    # 8192 × 24576 scores of both directions, over 4 devices: the reference holds at least these.
    assert temporaries(contrastive_loss, 8192, 4) > 8192 * 24576 > 4 * base


def test_auto_takes_tiles_where_scores_would_be_large():
    mesh = mesh_of(MeshConfig())
    auto, dense = TrainConfig(), TrainConfig(loss="dense")
    assert not is_blockwise(auto, 4096, 4096, mesh)  # 2 · 4096² · 4 bytes / 8 = 16 MiB
    assert held_score_bytes(auto, 4096, 4096, mesh) == 16 * 2**20
    assert is_blockwise(auto, 4096, 4096, None)  # 128 MiB on one device
    assert not is_blockwise(dense, 4096, 4096, None)
    assert held_score_bytes(auto, 32768, 32768, mesh) == 2 * 4096 * 2048 * 4  # one tile of 2048
    with pytest.raises(UserError, match=r"loss_tile: 0; expected 1 or more"):
        validate(Config("x", train=TrainConfig(loss_tile=0)))


@pytest.fixture(scope="module")
def step_inputs(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A config of one-layer towers, and the workdir with its data."""
    config = load_config(tiny_config)
    text = TextConfig(max_tokens=16, buckets=(16,))
    towers = {
        side: replace(getattr(config.teacher, side), text=text, num_layers=1)
        for side in ("query", "doc")
    }
    workdir = Workdir(tmp_path_factory.mktemp("blockwise"))
    build_dataset(config.data, workdir.data)
    return replace(config, teacher=replace(config.teacher, **towers)), workdir


@pytest.mark.slow
def test_a_step_with_tiles_is_the_dense_step(step_inputs):
    config, workdir = step_inputs
    mesh = mesh_of(EIGHT)

    def step(**options: Any) -> Any:
        train = replace(config.train, batch_size=16, w_spread=0.1, loss_tile=10, **options)
        collection = Collection.open(workdir.data)
        stage = first_stage(replace(config, train=train), collection, workdir, mesh)
        state = stage.prepared.place(stage.initial())
        state, metrics = stage.step(state, mesh_lib.put_batch(stage.sampler.batch(0), mesh))
        means = {name: float(total / count) for name, (total, count) in metrics.items()}
        return means, state.opt_state[1][0].mu  # Adam's first moments: the gradients

    (dense, dense_grads), (ours, grads) = step(loss="dense"), step(loss="blockwise")
    assert ours == pytest.approx(dense, abs=1e-4)
    assert_equal(grads, dense_grads)
