"""The families of decoders: what a hub's config means, GGUF files, and each change to a Llama
against a plain forward.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import jax
import numpy as np
import pytest
from plain_forward import numpy_decoder
from small_models import (
    BERT_CONFIG,
    HEAD_NORMS,
    LAYERS,
    LLAMA_CONFIG,
    POSITIONS,
    SANDWICH,
    E,
    G,
    H,
    K,
    bert_tensors,
    llama_tensors,
    load_pretrained,
    vectors,
    write_gguf,
    write_hf,
)
from small_towers import DECODER, define, random_params

from scalingnote_jax.cli import main
from scalingnote_jax.config import DecoderShape, MeshConfig, RopeScaling
from scalingnote_jax.config.load import load_config
from scalingnote_jax.config.values import from_json, to_json
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.devices.sharding import shardings_of
from scalingnote_jax.errors import UserError
from scalingnote_jax.models.layers.params import flatten
from scalingnote_jax.models.layers.rope import frequencies
from scalingnote_jax.models.layers.views import local_layers
from scalingnote_jax.models.pair import Towers
from scalingnote_jax.models.tower import tower_def
from scalingnote_jax.models.weights.families import shape_of_config

WINDOWS = {"window": 3, "global_every": 2, "local_rope_theta": 20.0}
CHANGES: dict[str, dict[str, Any]] = {
    "linear": {"rope_scaling": RopeScaling("linear", 4.0)},
    "llama3": {"rope_scaling": RopeScaling("llama3", 8.0, old_positions=64)},
    "mistral": {"window": 3},
    "qwen3": {"qk_norm": True},
    "gemma2": {"gemma": True, "score_dim": 12, "score_cap": 1.5, "window": 3, "global_every": 2},
    "gemma3": {"gemma": True, "qk_norm": True, **WINDOWS},
}


@pytest.mark.parametrize("name", CHANGES)
def test_equals_a_plain_forward_also_in_packed_rows(name: str) -> None:
    shape = replace(DECODER, **CHANGES[name])
    tower, plain = define(shape, pooling="mean"), define(DECODER, pooling="mean")
    params = random_params(tower)
    texts = np.random.default_rng(1).integers(0, 50, (2, 9)).astype(np.int32)
    wanted = np.stack([numpy_decoder(shape, params["body"], t).mean(0) for t in texts])
    given = jax.jit(tower.apply)(params, texts, np.ones((2, 9), bool))
    np.testing.assert_allclose(given, wanted, atol=1e-4)

    row = np.concatenate([*texts, np.zeros(2, np.int32)])[None]
    segments = np.repeat([1, 2, 0], [9, 9, 2]).astype(np.int32)[None]
    packed = jax.jit(tower.apply, static_argnames="texts_per_row")(
        params, row, segments, texts_per_row=2
    )
    np.testing.assert_allclose(packed[0], wanted, atol=1e-4)

    if set(flatten(plain.abstract()[0])) == set(flatten(params)):  # and it is no Llama
        other = jax.jit(plain.apply)(params, texts, np.ones((2, 9), bool))
        assert np.abs(other - wanted).max() > 1e-2


def test_which_layers_are_local() -> None:
    shape = DecoderShape(num_layers=7, window=4, global_every=3)
    assert local_layers(shape) == (True, True, False, True, True, False, True)
    assert local_layers(replace(shape, global_every=0)) == (True,) * 7
    assert local_layers(replace(shape, window=0)) == (False,) * 7


def test_the_language_model_beside_a_vision_tower(tmp_path: Path) -> None:
    text = {k: BASE[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    config = {"model_type": "gemma3", "text_config": text | {"sliding_window": 512}}
    sizes = {"vocab_size": 262208, "num_heads": 8, "num_kv_heads": 4, "head_dim": 256}
    shape = shape_of_config(Path("config.json"), config)
    assert shape == replace(GEMMA3, score_dim=256, **sizes)

    tensors = llama_tensors() | gemma3_norms()
    config = LLAMA_CONFIG | GEMMA | {"model_type": "gemma3_text", "sliding_window": 2}
    alone = load_pretrained(write_hf(tmp_path / "a", config, tensors))
    whole = {f"language_model.model.{name}": x for name, x in tensors.items()}
    whole["vision_tower.encoder.layers.0.self_attn.q_proj.weight"] = np.zeros((2, 2), np.float32)
    config = {"model_type": "gemma3", "text_config": config}
    inside = load_pretrained(write_hf(tmp_path / "b", config, whole))
    assert inside.shape == alone.shape
    for name, weight in alone.weights.items():
        np.testing.assert_array_equal(inside.weights[name], weight)


def test_roberta_positions_start_behind_the_padding_token(tmp_path: Path) -> None:
    tensors = bert_tensors()
    config = BERT_CONFIG | {"model_type": "roberta", "pad_token_id": 1}
    loaded = load_pretrained(write_hf(tmp_path / "m", config, tensors))
    assert loaded.shape.max_positions == POSITIONS - 2  # type: ignore[union-attr]
    table = tensors["embeddings.position_embeddings.weight"]
    np.testing.assert_array_equal(loaded.weights["embedding/positions"], table[2:])


def test_stretched_frequencies() -> None:
    plain = frequencies(8, 10_000.0)
    np.testing.assert_allclose(plain, [1.0, 0.1, 0.01, 0.001])
    np.testing.assert_allclose(frequencies(8, 1e4, RopeScaling("linear", 4.0)), plain / 4)
    # Turns in 4096 positions: 652, 65, 6.5, 0.65. Above 10 as it was, below 1 an eighth, and 6.5 is
    # (6.519 - 1) / 9 = 0.613 of the way: 0.613 + 0.387 / 8 = 0.6616.
    scaled = frequencies(8, 1e4, RopeScaling("llama3", 8.0, 1.0, 10.0, 4096))
    np.testing.assert_allclose(scaled / plain, [1.0, 1.0, 0.6616, 0.125], atol=1e-4)


BASE = {
    "vocab_size": 100,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-6,
}
SHAPE = DecoderShape(100, 48, 96, 12, 6, 3, 8, 1e4, 1e-6)
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_GELU = "gelu_pytorch_tanh"  # the hub has it under both names
GEMMA = {
    "hidden_activation": _GELU,
    "hidden_act": _GELU,
    "head_dim": 8,
    "query_pre_attn_scalar": 10,
}
LOCAL = ["sliding_attention"] * 5 + ["full_attention"]
GEMMA3 = replace(
    SHAPE,
    gemma=True,
    qk_norm=True,
    score_dim=10,
    window=512,
    global_every=6,
    rope_theta=1e6,
    local_rope_theta=1e4,
)
# As the hub has them: fields of transformers 4, and what Gemma leaves to defaults.
HUB: list[tuple[dict[str, Any], DecoderShape]] = [
    (
        {"model_type": "llama", "rope_theta": 5e5, "rope_scaling": LLAMA3},
        replace(SHAPE, rope_theta=5e5, rope_scaling=RopeScaling("llama3", 32.0)),
    ),
    ({"model_type": "mistral", "sliding_window": 4096}, replace(SHAPE, window=4096)),
    ({"model_type": "mistral", "sliding_window": None}, SHAPE),
    (
        {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 131072},
        replace(SHAPE, qkv_bias=True),
    ),
    (
        {"model_type": "qwen3", "head_dim": 16, "rope_scaling": None},
        replace(SHAPE, head_dim=16, qk_norm=True),
    ),
    (
        {"model_type": "gemma2", "sliding_window": 4096, "attn_logit_softcapping": 50.0, **GEMMA},
        replace(SHAPE, **CHANGES["gemma2"] | {"window": 4096, "score_dim": 10, "score_cap": 50.0}),
    ),
    ({"model_type": "gemma3_text", "sliding_window": 512, **GEMMA}, GEMMA3),
    (
        {
            "model_type": "gemma3_text",
            "sliding_window": 512,
            "layer_types": LOCAL * 2,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            **GEMMA,
        },
        replace(GEMMA3, rope_scaling=RopeScaling("linear", 8.0)),
    ),
]


@pytest.mark.parametrize(("config", "shape"), HUB, ids=[c["model_type"] for c, _ in HUB])
def test_configs_of_the_hub(config: dict[str, Any], shape: DecoderShape) -> None:
    assert shape_of_config(Path("config.json"), BASE | config) == shape


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window True"),
        ({"model_type": "qwen3", "attention_bias": True}, "attention_bias True"),
        (
            {
                "model_type": "gemma3_text",
                "sliding_window": 8,
                "layer_types": LOCAL[::-1] * 2,
                **GEMMA,
            },
            "layer_types ['full_attention', 'sliding",
        ),
        (
            {"model_type": "t5"},
            "model_type 't5'; expected one of ['bert', 'gemma2', 'gemma3', 'gemma3_text', 'llama', "
            "'mistral', 'modernbert', 'qwen2', 'qwen3', 'roberta', 'xlm-roberta']",
        ),
    ],
)
def test_refused_configs(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        shape_of_config(Path("config.json"), BASE | config)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def gemma3_norms() -> dict[str, np.ndarray]:
    return vectors(HEAD_NORMS | SANDWICH)


def test_gguf_files_of_each_family(tmp_path: Path) -> None:
    biases = {f"self_attn.{x}_proj.bias": n * K for x, n in (("q", H), ("k", G), ("v", G))}
    gemma = GEMMA | {"query_pre_attn_scalar": K, "sliding_window": 2}
    gemma2 = gemma | {"attn_logit_softcapping": 50.0}

    def add_keys(writer: gguf.GGUFWriter) -> None:
        if writer.arch.startswith("gemma"):
            writer.add_sliding_window(2)
        if writer.arch == "gemma2":
            writer.add_attn_logit_softcapping(50.0)

    for kind, model_type, more, extra in (
        ("qwen2", "qwen2", {}, biases),
        ("qwen3", "qwen3", {}, HEAD_NORMS),
        ("gemma2", "gemma2", gemma2, SANDWICH),
        ("gemma3", "gemma3_text", gemma, HEAD_NORMS | SANDWICH),
    ):
        tensors = llama_tensors() | vectors(extra)
        config = LLAMA_CONFIG | {"model_type": model_type} | more
        folder = load_pretrained(write_hf(tmp_path / kind, config, tensors))
        path = write_gguf(tmp_path / f"{kind}.gguf", tensors, add_keys, architecture=kind)
        file = load_pretrained(path)
        assert file.shape == folder.shape
        for name, weight in folder.weights.items():
            np.testing.assert_allclose(file.weights[name], weight, atol=1e-6, err_msg=name)


def test_scales_of_gemma_are_one_more_than_stored(tmp_path: Path) -> None:
    norms = {
        f"layers.{i}.{x}_feedforward_layernorm.weight": np.full(E, 0.5, np.float32)
        for i in range(LAYERS)
        for x in ("pre", "post")
    }
    config = LLAMA_CONFIG | {"model_type": "gemma2", "sliding_window": 2, **GEMMA}
    ref = write_hf(tmp_path / "m", config, llama_tensors() | norms)
    weights = load_pretrained(ref).weights
    np.testing.assert_array_equal(weights["layers/mlp_norm"], np.full((LAYERS, E), 1.5))
    stored = llama_tensors()["norm.weight"]
    np.testing.assert_allclose(weights["final_norm"], 1 + stored, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "millions", "weights"),
    [
        ("qwen2_5_7b", 7_070.6, "hf:Qwen/Qwen2.5-7B"),
        ("smollm2_135m", 134.5, "hf:HuggingFaceTB/SmolLM2-135M"),
        ("qwen3_0_6b", 595.8, "hf:Qwen/Qwen3-Embedding-0.6B"),
        ("gemma3_270m", 268.1, "hf:google/gemma-3-270m"),
    ],
)
def test_configs_build_without_their_weights(name: str, millions: float, weights: str) -> None:
    config = load_config(name)
    assert from_json(to_json(config)) == config
    towers = Towers(config.teacher)
    assert config.teacher.query.weights == weights
    body = [x.size for p, x in towers.abstract()[0].items() if p.startswith("query/body")]
    assert sum(body) / 1e6 == pytest.approx(millions, abs=0.05)
    mesh = make_mesh(MeshConfig(data=1, fsdp=8))
    for side in towers.sides.values():
        shardings_of(*(flatten(tree) for tree in side.abstract()), mesh)
    assert tower_def(config.distill.student).dim == towers.query.dim
    smoke = load_config(name, smoke=True)
    small = Towers(smoke.teacher)
    assert small.query.num_params() < 1e6
    kind, full = small.query.shape, towers.query.shape
    for field in ("qkv_bias", "qk_norm", "gemma"):
        assert getattr(kind, field) == getattr(full, field)
    assert tower_def(smoke.distill.student).dim == small.query.dim


@pytest.mark.slow
def test_smoke(tmp_path: Path) -> None:
    words = ["gemma3_270m", "--smoke", f"--workdir={tmp_path / 'w'}"]
    for verb in ("data", "train"):
        assert main([verb, *words, "--train.duration=2 steps"]) == 0
    assert (tmp_path / "w" / "teacher" / "done.json").is_file()
