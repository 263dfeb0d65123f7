"""Adapters: nothing at the start, the merged weight's gradient, and what a frozen body costs."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run_parts import encoder as encoder_of

from scalingnote_jax.cli import main
from scalingnote_jax.config import (
    BertShape,
    Config,
    DecoderShape,
    LoraConfig,
    MeshConfig,
    TowerConfig,
    TowersConfig,
    TrainConfig,
)
from scalingnote_jax.config.load import load_config
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.errors import UserError
from scalingnote_jax.models.layers.params import flatten
from scalingnote_jax.models.pair import Towers
from scalingnote_jax.models.tower import TowerDef, tower_def
from scalingnote_jax.train.prepare import Prepared, make_schedule
from scalingnote_jax.train.stage1 import contrastive_step
from scalingnote_jax.workflow.workdir import Workdir

DECODER = DecoderShape(vocab_size=50, hidden_size=24, intermediate_size=40, num_heads=6)
BERT = BertShape(vocab_size=50, hidden_size=24, intermediate_size=40)
LORA = LoraConfig(rank=2, alpha=6.0)
TOKENS = np.random.default_rng(1).integers(0, 50, (4, 8)).astype(np.int32)
MASK = np.arange(8) < np.array([8, 5, 3, 1])[:, None]


def define(shape: Any = DECODER, **changes: Any) -> TowerDef:
    return tower_def(TowerConfig(weights="random", shape=shape, **changes))


def trained(tower: TowerDef, seed: int = 0) -> dict[str, Any]:
    """Parameters whose B is no longer zero."""
    rng = np.random.default_rng(seed)

    def move(path: Any, x: Any) -> Any:
        is_b = jax.tree_util.keystr(path).endswith("['b']")
        return x + (0.3 * rng.normal(size=x.shape)).astype(np.float32) if is_b else x

    return jax.tree_util.tree_map_with_path(move, tower.pretrained_params(3))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [DECODER, BERT])
def test_new_adapters_change_nothing(shape: Any) -> None:
    plain, adapted = define(shape, projection=8), define(shape, projection=8, lora=LORA)
    before, after = plain.pretrained_params(3), adapted.pretrained_params(3)
    base = {path: x for path, x in flatten(after).items() if "/lora/" not in path}
    assert base.keys() == flatten(before).keys()
    for path, x in flatten(before).items():
        np.testing.assert_array_equal(base[path], x)
    # Two programs: the compiler may round their last bits differently
    np.testing.assert_allclose(
        jax.jit(adapted.apply)(after, TOKENS, MASK),
        jax.jit(plain.apply)(before, TOKENS, MASK),
        rtol=0,
        atol=2e-6,
    )
    assert not np.allclose(
        jax.jit(adapted.apply)(trained(adapted), TOKENS, MASK),
        jax.jit(plain.apply)(before, TOKENS, MASK),
        rtol=0,
        atol=2e-6,
    )


@pytest.mark.slow
@pytest.mark.parametrize("shape", [DECODER, BERT])
def test_merged_weights_give_the_same_vectors(shape: Any) -> None:
    adapted = define(shape, lora=LORA)
    params = trained(adapted)
    plain, merged = adapted.merged(params)
    assert flatten(merged).keys() == flatten(plain.abstract()[0]).keys()
    np.testing.assert_allclose(
        jax.jit(plain.apply)(merged, TOKENS, MASK),
        jax.jit(adapted.apply)(params, TOKENS, MASK),
        atol=1e-5,
    )
    layers, lora = params["body"]["layers"], params["body"]["layers"]["lora"]
    o = layers["o"][1] + 3.0 * np.einsum("hkr,re->hke", lora["o"]["a"][1], lora["o"]["b"][1])
    np.testing.assert_allclose(merged["body"]["layers"]["o"][1], o, atol=1e-5)


@pytest.mark.slow
def test_one_step_is_the_step_of_the_merged_weights() -> None:
    """d loss / dA = s · dW Bᵀ and d loss / dB = s · Aᵀ dW, where dW is of the merged weight."""
    adapted = define(lora=LORA)
    params = trained(adapted)
    plain, merged = adapted.merged(params)

    def loss(tower: TowerDef, params: Any) -> jax.Array:
        return jnp.sum(jnp.sin(tower.apply(params, TOKENS, MASK)))

    given = jax.jit(jax.grad(partial(loss, adapted)))(params)["body"]["layers"]["lora"]
    wanted = jax.jit(jax.grad(partial(loss, plain)))(merged)["body"]["layers"]
    for name, spec in {"q": "ehk,rhk->er", "o": "hke,re->hkr", "down": "fe,re->fr"}.items():
        for layer in range(2):
            adapter = params["body"]["layers"]["lora"][name]
            dw = 3.0 * np.asarray(wanted[name][layer])  # alpha / rank
            da = np.einsum(spec, dw, adapter["b"][layer])
            np.testing.assert_allclose(given[name]["a"][layer], da, atol=1e-4)
    dw = 3.0 * np.asarray(wanted["q"][0])
    db = np.einsum("er,ehk->rhk", params["body"]["layers"]["lora"]["q"]["a"][0], dw)
    np.testing.assert_allclose(given["q"]["b"][0], db, atol=1e-4)


@pytest.mark.slow
def test_what_is_trained_and_how_it_is_stored() -> None:
    lora = replace(LORA, modules=("layers/[qv]$",), base_dtype="bfloat16")
    tower = define(projection=8, lora=lora)
    shapes, axes = (flatten(tree) for tree in tower.abstract())
    kept = {p for p in shapes if not any(re.search(f, p) for f in tower.freeze)}
    adapters = {f"body/layers/lora/{w}/{x}" for w in "qv" for x in "ab"}
    assert kept == {*adapters, "projection"}
    assert {x.dtype for p, x in shapes.items() if p not in kept} == {jnp.dtype("bfloat16")}
    assert {shapes[p].dtype for p in kept} == {jnp.dtype("float32")}
    assert shapes["body/layers/lora/q/a"].shape == (2, 24, 2)
    assert shapes["body/layers/lora/q/b"].shape == (2, 2, 6, 16)
    assert axes["body/layers/lora/q/a"] == ("layers", "embed", "lora_rank")
    assert axes["body/layers/lora/q/b"] == ("layers", "lora_rank", "heads", "head")
    out = jax.jit(tower.apply)(tower.pretrained_params(0), TOKENS, MASK)
    assert out.dtype == jnp.float32
    exact = define(projection=8, lora=replace(lora, base_dtype="float32"))
    wanted = jax.jit(exact.apply)(exact.pretrained_params(0), TOKENS, MASK)
    assert np.sum(out * wanted) / np.linalg.norm(out) / np.linalg.norm(wanted) > 0.999


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (LoraConfig(rank=-1), "--tower.lora.rank: -1; expected 0 or more"),
        (LoraConfig(rank=1, modules=("mlp",)), "'mlp'; expected a match in layers/q, layers/k"),
        (LoraConfig(rank=1, base_dtype="int4"), "--tower.lora.base_dtype: 'int4'"),  # type: ignore[arg-type]
        (
            LoraConfig(base_dtype="int8"),
            "--tower.lora.base_dtype: 'int8' with rank 0; expected adapt",
        ),
    ],
)
def test_refused(lora: LoraConfig, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        define(lora=lora)


def nbytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def memory_of_a_step(lora: LoraConfig, remat: Any = "full") -> tuple[int, int, int]:
    """Bytes of the body's weights, of the optimizer's state, and of the step's temporaries."""
    shape = DecoderShape(vocab_size=64, hidden_size=128, intermediate_size=512, num_layers=8)
    tower = TowerConfig(weights="random", shape=shape, remat=remat, lora=lora)
    cfg = TrainConfig(batch_size=4, duration="1 steps")
    config = Config("memory", teacher=TowersConfig(tower, tower), train=cfg)
    towers, mesh = Towers(config.teacher), make_mesh(config.mesh, jax.devices()[:1])
    schedule = make_schedule("train", cfg, 1)
    prepared = Prepared("teacher", *towers.abstract(), towers.freeze(True), cfg, schedule, mesh)
    step = prepared.jit(contrastive_step, query_tower=towers.query, doc_tower=towers.doc, cfg=cfg)

    def integers(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    batch = {
        "query_tokens": integers(4, 8),
        "query_mask": jax.ShapeDtypeStruct((4, 8), bool),
        "doc_tokens": integers(4, 1, 8),
        "doc_mask": jax.ShapeDtypeStruct((4, 1, 8), bool),
        "query_ids": integers(4),
        "doc_ids": integers(4, 1),
        "positive_ids": integers(4, 1),
    }
    compiled = step.lower(prepared.abstract, batch).compile()  # type: ignore[attr-defined]
    body = nbytes({p: x for p, x in towers.abstract()[0].items() if "/body/" in p})
    moments = nbytes(prepared.abstract.opt_state)
    return body, moments, compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_a_frozen_body_costs_no_gradient_and_no_moments() -> None:
    body, moments, temporaries = memory_of_a_step(LoraConfig())
    assert moments > 2 * body  # both moments of Adam
    assert temporaries > body  # its gradient
    _, small_moments, small_temporaries = memory_of_a_step(LoraConfig(rank=2))
    assert small_moments < body / 10
    assert temporaries - small_temporaries > 0.9 * body


@pytest.mark.slow
def test_the_whole_method_with_adapters(tiny_config: Path, tmp_path: Path) -> None:
    """Stage 1, encoding, distillation from such a teacher, search: each restores a checkpoint."""
    words = [f"--{tower}.lora.rank=4" for tower in ("teacher.query", "teacher.doc")]
    words += ["--teacher.doc.lora.base_dtype=bfloat16", "--distill.student.lora.rank=2"]
    words += ["--distill.student.lora.modules=layers/[qv]$"]
    words += [f"--{stage}.duration=4 steps" for stage in ("train", "distill")]
    assert main(["run", str(tiny_config), f"--workdir={tmp_path / 'w'}", *words]) == 0
    assert (tmp_path / "w" / "eval" / "metrics.json").is_file()
    config, mesh = load_config(tiny_config, words), make_mesh(MeshConfig())
    params = encoder_of(config, Workdir(tmp_path / "w"), "teacher", "query", mesh).params
    start = flatten(tower_def(config.teacher.query).pretrained_params(config.seed))
    for path, x in flatten(params).items():
        moved = "/lora/" in path or path == "projection"
        assert np.array_equal(x, start[path]) != moved, path
