"""ModernBERT: against a plain forward, what the hub's configs mean, and its fused tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from plain_forward import numpy_modernbert
from run_parts import student_of
from small_models import BE, BF, BH, BV, LAYERS, Tensors, load_pretrained, write_hf
from small_towers import MODERNBERT, define, random_params

from scalingnote_jax.config import Config, LoraConfig, MeshConfig, ModernBertShape, TowerConfig
from scalingnote_jax.config.smoke import shrunk
from scalingnote_jax.config.values import from_json, to_json
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.devices.sharding import shardings_of
from scalingnote_jax.errors import UserError
from scalingnote_jax.models.flops import tower_flops
from scalingnote_jax.models.layers.params import flatten
from scalingnote_jax.models.layers.views import local_layers
from scalingnote_jax.models.tower import tower_def
from scalingnote_jax.models.weights.families import shape_of_config
from scalingnote_jax.models.weights.placing import place

# As transformers 4 wrote it.
CONFIG: dict[str, Any] = {
    "model_type": "modernbert",
    "vocab_size": BV,
    "hidden_size": BE,
    "intermediate_size": BF,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": BH,
    "local_attention": 9,
    "global_attn_every_n_layers": 2,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
    "norm_eps": 1e-5,
    "norm_bias": False,
    "hidden_activation": "gelu",
    "position_embedding_type": "absolute",
}
SHAPE = ModernBertShape(BV, BE, BF, LAYERS, BH, reach=4, global_every=2)


def tensors() -> Tensors:
    rng = np.random.default_rng(3)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.tok_embeddings.weight": (BV, BE),
        "embeddings.norm.weight": (BE,),
        "final_norm.weight": (BE,),
    }
    for i in range(LAYERS):
        shapes |= {f"layers.{i}.attn_norm.weight": (BE,)} if i else {}
        shapes |= {
            f"layers.{i}.attn.Wqkv.weight": (3 * BE, BE),
            f"layers.{i}.attn.Wo.weight": (BE, BE),
            f"layers.{i}.mlp_norm.weight": (BE,),
            f"layers.{i}.mlp.Wi.weight": (2 * BF, BE),
            f"layers.{i}.mlp.Wo.weight": (BE, BF),
        }
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("layers", [5, 1])
def test_equals_a_plain_forward_also_in_packed_rows(layers: int) -> None:
    tower = define(replace(MODERNBERT, num_layers=layers), pooling="mean")
    params = random_params(tower)
    texts = [np.arange(length) * 7 % 50 for length in (9, 12, 1)]
    wanted = [numpy_modernbert(tower.shape, params["body"], t).mean(0) for t in texts]  # type: ignore[arg-type]

    mask = np.arange(14) < np.array([9, 12, 1])[:, None]
    tokens = np.full(mask.shape, 3, np.int32)
    tokens[mask] = np.concatenate(texts)
    given = jax.jit(tower.apply)(params, tokens, mask)
    np.testing.assert_allclose(given, wanted, atol=1e-4)

    row = np.concatenate([*texts, np.full(2, 3)]).astype(np.int32)[None]
    segments = np.repeat([1, 2, 3, 0], [9, 12, 1, 2]).astype(np.int32)[None]
    packed = jax.jit(tower.apply, static_argnames="texts_per_row")(
        params, row, segments, texts_per_row=3
    )
    np.testing.assert_allclose(packed[0], wanted, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [{"reach": 3}, {"global_every": 2}, {"rope_theta": 50.0}, {"local_rope_theta": 50.0}],
    ids=lambda changes: next(iter(changes)),
)
def test_each_field_of_the_attention_matters(changes: dict[str, Any]) -> None:
    one, other = define(MODERNBERT), define(replace(MODERNBERT, **changes))
    params, tokens = random_params(one), np.arange(9, dtype=np.int32)[None]
    both = [jax.jit(t.apply)(params, tokens, np.ones((1, 9), bool)) for t in (one, other)]
    assert np.abs(both[0] - both[1]).max() > 1e-3


def test_which_layers_are_local() -> None:
    assert local_layers(MODERNBERT) == (False, True, True, False, True)
    assert local_layers(replace(MODERNBERT, global_every=1)) == (False,) * 5


def test_configs_of_both_generations() -> None:
    assert shape_of_config(Path("config.json"), CONFIG) == SHAPE
    new = {k: v for k, v in CONFIG.items() if "rope" not in k and "every" not in k}
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    new |= {
        "layer_types": kinds,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 160000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
        },
    }
    assert shape_of_config(Path("config.json"), new) == replace(SHAPE, local_rope_theta=300.0)
    new |= {"layer_types": ["full_attention"] + ["sliding_attention"] * 2}
    assert local_layers(shape_of_config(Path("config.json"), new)) == (False, True, True)  # type: ignore[arg-type]
    alike = CONFIG | {"local_rope_theta": None}  # of all layers, then
    shape = shape_of_config(Path("config.json"), alike)
    assert shape == replace(SHAPE, local_rope_theta=160000.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_bias": True}, "norm_bias True; expected False"),
        ({"attention_bias": True}, "attention_bias True; expected False"),
        ({"hidden_activation": "silu"}, "hidden_activation 'silu'; expected 'gelu'"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling {'rope_type': 'yarn'}"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "linear", "rope_theta": 9.0}}},
            "rope_type 'linear'; expected 'default'",
        ),
        (
            {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
            "layer_types ['sliding_attention', 'full",
        ),
    ],
)
def test_refused_configs(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        shape_of_config(Path("config.json"), CONFIG | change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_fused_tensors_come_apart(tmp_path: Path) -> None:
    given = tensors()
    found = load_pretrained(write_hf(tmp_path / "m", CONFIG, given))
    assert found.shape == SHAPE
    qkv, wi = given["layers.2.attn.Wqkv.weight"], given["layers.2.mlp.Wi.weight"]
    for i, name in enumerate("qkv"):
        wanted = qkv[i * BE : (i + 1) * BE].T.reshape(BE, BH, BE // BH)
        np.testing.assert_array_equal(found.weights[f"layers/{name}"][2], wanted)
    np.testing.assert_array_equal(found.weights["layers/gate"][2], wi[:BF].T)
    np.testing.assert_array_equal(found.weights["layers/up"][2], wi[BF:].T)
    norms = found.weights["layers/attention_norm"]
    np.testing.assert_array_equal(norms[0], np.ones(BE))
    np.testing.assert_array_equal(norms[1], given["layers.1.attn_norm.weight"])

    # As a masked language model has them, with its head; and its first two layers only.
    whole = {f"model.{name}": x for name, x in given.items()}
    whole |= {"head.dense.weight": given["layers.0.attn.Wo.weight"], "decoder.bias": np.zeros(BV)}
    again = load_pretrained(write_hf(tmp_path / "w", CONFIG, whole), num_layers=2)
    for name, weight in again.weights.items():
        wanted = found.weights[name][:2] if name.startswith("layers/") else found.weights[name]
        np.testing.assert_array_equal(weight, wanted)


def test_parts_of_fused_tensors_on_a_mesh(tmp_path: Path) -> None:
    config = CONFIG | {"num_attention_heads": 4}
    tower = tower_def(TowerConfig(weights=write_hf(tmp_path / "m", config, tensors())))
    axes, mesh = flatten(tower.abstract()[1]), make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    stored = flatten(tower.stored_params(0))
    placed = place(stored, shardings_of(stored, axes, mesh))
    for path, wanted in flatten(tower.pretrained_params(0)).items():
        np.testing.assert_array_equal(placed[path], wanted)
    assert {s.data.shape for s in placed["body/layers/v"].addressable_shards} == {
        (LAYERS, BE // 2, 2, BE // 4)
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers.0.attn_norm.weight": np.ones(BE, np.float32)}, "without a use: 1 (layers.0.attn"),
        ({"layers.1.attn.Wqkv.bias": np.ones(3 * BE, np.float32)}, "without a use: 1 (layers.1.at"),
        ({"layers.1.attn_norm.weight": None}, "missing: 1 (layers.1.attn_norm.weight)"),
        ({"layers.1.attn.Wqkv.weight": np.ones((2 * BE, BE), np.float32)}, "expected (72, 24)"),
    ],
)
def test_another_model_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    given = {name: x for name, x in (tensors() | change).items() if x is not None}
    with pytest.raises(UserError) as error:
        load_pretrained(write_hf(tmp_path / "m", CONFIG, given))
    assert message in str(error.value)


def test_in_configs() -> None:
    tower = TowerConfig("random", shape=MODERNBERT, tokenizer="bytes", pooling="cls")
    config = Config("c")
    config = replace(config, teacher=replace(config.teacher, query=tower, doc=tower))
    assert from_json(to_json(config)) == config  # no shape of another kind with the same fields
    small = tower_def(shrunk(config).teacher.query).shape
    assert isinstance(small, ModernBertShape)
    assert local_layers(small) == (False, True)
    with pytest.raises(UserError, match="true for an encoder, which always is; expected false"):
        tower_def(replace(tower, bidirectional=True))
    with pytest.raises(UserError, match=r"num_heads: 8; expected heads of an even size"):
        tower_def(replace(tower, shape=replace(MODERNBERT, num_heads=8)))


def test_pruned_layers_keep_their_kind() -> None:
    def pruned(num_layers: int) -> Config:
        student = TowerConfig("teacher:ends", num_layers=num_layers)
        return replace(config, distill=replace(config.distill, student=student))

    tower, config = TowerConfig("random", shape=MODERNBERT, tokenizer="bytes"), Config("c")
    config = replace(config, teacher=replace(config.teacher, query=tower, doc=tower))
    assert student_of(pruned(2)).shape == MODERNBERT  # layers 0 and 4: all, a window
    with pytest.raises(UserError, match=r"layers \[0, 1, 3, 4\] of a model in which some see"):
        student_of(pruned(4))


def test_flops_and_adapters_by_hand() -> None:
    tower = define(MODERNBERT, lora=LoraConfig(rank=2, modules=("layers/[qv]$",)))
    assert sorted(tower.abstract()[0]["body"]["layers"]["lora"]) == ["q", "v"]
    # A token and a layer: q, k, v and o of 24·24, three of 24·40; 64 tokens see 64.
    plain = 5 * 64 * (2 * (4 * 24 * 24 + 3 * 24 * 40) + 2 * 2 * 64 * 24)
    assert tower_flops(define(MODERNBERT), rows=1).model == plain
