"""Folders and files of weights that contradict themselves: refused by name, and what is not read is
said.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_models import (
    BERT_CONFIG,
    LLAMA_CONFIG,
    E,
    V,
    bert_tensors,
    llama_tensors,
    load_pretrained,
    write_gguf,
    write_hf,
    write_shards,
)

from scalingnote_jax.errors import UserError
from scalingnote_jax.models.weights.families import shape_of_config
from scalingnote_jax.models.weights.pretrained import open_weights


def refused(ref: str, *parts: str) -> None:
    with pytest.raises(UserError) as error:
        load_pretrained(ref)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_two_sets_of_weights(tmp_path: Path) -> None:
    folder, tensors = tmp_path / "m", llama_tensors()
    write_shards(folder, LLAMA_CONFIG, tensors)
    write_hf(folder, LLAMA_CONFIG, tensors)
    refused(str(folder), "two sets of weights: model-00001-of-00002", "beside model.safetensors;")
    for shard in folder.glob("model-*"):
        shard.unlink()
    (folder / "model.safetensors.index.json").unlink()
    save_file(tensors, folder / "model.fp16.safetensors")
    refused(str(folder), "two sets of weights: model.safetensors beside model.fp16.safetensors")
    (folder / "model.fp16.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")  # the same again, as many folders have it
    load_pretrained(str(folder))
    # An index that names the one file beside it is no second set.
    index = {"weight_map": dict.fromkeys(tensors, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    load_pretrained(str(folder))


def test_an_adapter(tmp_path: Path) -> None:
    ref = write_hf(tmp_path / "m", LLAMA_CONFIG, llama_tensors())
    (tmp_path / "m" / "adapter_config.json").write_text("{}")
    refused(ref, "an adapter (adapter_config.json) beside weights", "merge_and_unload")
    alone = tmp_path / "a"
    alone.mkdir()
    (alone / "adapter_config.json").write_text("{}")
    (alone / "adapter_model.safetensors").write_bytes(b"")
    refused(str(alone), "adapter_model.safetensors), and no weights")


def test_one_tensor_under_two_names(tmp_path: Path) -> None:
    tensors = llama_tensors()
    table = tensors["embed_tokens.weight"]
    same = tensors | {"model.embed_tokens.weight": table}
    load_pretrained(write_hf(tmp_path / "same", LLAMA_CONFIG, same))
    other = tensors | {"model.embed_tokens.weight": table + 1}
    ref = write_hf(tmp_path / "other", LLAMA_CONFIG, other)
    refused(ref, "embed_tokens.weight", "model.embed_tokens.weight are one tensor, and differ")
    ref = write_shards(tmp_path / "shards", LLAMA_CONFIG, other)
    refused(ref, "are one tensor, and differ")


def test_a_tied_head_is_the_table(tmp_path: Path) -> None:
    tensors = llama_tensors()
    tied = LLAMA_CONFIG | {"tie_word_embeddings": True}
    both = tensors | {"lm_head.weight": tensors["embed_tokens.weight"]}
    ref = write_hf(tmp_path / "tied", tied, both)
    load_pretrained(ref)
    assert open_weights(ref).own_head == ""
    other = tensors | {"lm_head.weight": np.zeros((V, E), np.float32)}
    refused(write_hf(tmp_path / "other", tied, other), "lm_head.weight are one tensor, and differ")
    untied = write_hf(tmp_path / "untied", LLAMA_CONFIG, other)  # a Llama's default
    load_pretrained(untied)
    assert open_weights(untied).own_head == "lm_head.weight (tie_word_embeddings is false)"
    body = write_hf(tmp_path / "body", LLAMA_CONFIG, tensors)
    assert "not in the folder" in open_weights(body).own_head


def test_the_head_of_a_gguf_file(tmp_path: Path) -> None:
    tensors = llama_tensors()
    assert open_weights(write_gguf(tmp_path / "tied.gguf", tensors)).own_head == ""
    path = write_gguf(tmp_path / "m.gguf", tensors | {"output.weight": np.zeros((V, E), "f4")})
    assert open_weights(path).own_head == "output.weight"


def test_a_shard_with_other_tensors_than_its_index_says(tmp_path: Path) -> None:
    ref = write_shards(tmp_path / "m", LLAMA_CONFIG, llama_tensors())
    shard = tmp_path / "m" / "model-00001-of-00002.safetensors"
    save_file(load_file(shard) | {"norm2.weight": np.ones(E, np.float32)}, shard)
    refused(ref, "tensors other than model.safetensors.index.json says: norm2.weight")


def test_what_is_not_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inside = bert_tensors() | {"pooler.dense.weight": np.zeros((2, 2), np.float32)}
    load_pretrained(write_hf(tmp_path / "m", BERT_CONFIG, inside))
    assert "not read: pooler.dense.weight" in capsys.readouterr().err
    load_pretrained(write_hf(tmp_path / "n", BERT_CONFIG, bert_tensors()))
    assert capsys.readouterr().err == ""


def test_gguf_files_that_are_no_whole_model(tmp_path: Path) -> None:
    path, tensors = tmp_path / "m.gguf", llama_tensors()
    write_gguf(path, tensors, lambda w: w.add_type(gguf.GGUFType.ADAPTER))
    refused(str(path), "a file of type 'adapter'", "merge it into its model")
    write_gguf(path, tensors, lambda w: w.add_uint16("split.count", 3))
    refused(str(path), "one of 3 parts")


ROPE = {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_kv_heads": 4}, "num_key_value_heads 2 beside num_kv_heads 4"),
        ({"multi_query": True}, "num_key_value_heads 2 beside multi_query, which means 1"),
        ({"n_layer": 6}, "num_hidden_layers 3 beside n_layer 6"),
        ({"hidden_activation": "gelu"}, "hidden_act 'silu' beside hidden_activation 'gelu'"),
        ({"norm_eps": 1e-6}, "rms_norm_eps 1e-05 beside norm_eps 1e-06"),
        ({"head_size": 16}, "head_size 16, and no head_dim"),
        (
            {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}},
            "rope_theta 500.0 beside rope_parameters.rope_theta 10000.0",
        ),
        (
            {"rope_parameters": ROPE | {"rope_theta": 500.0}, "rope_scaling": ROPE | {"factor": 4}},
            "beside rope_scaling {'rope_type': 'linear', 'factor': 4}",
        ),
        ({"rope_scaling": ROPE | {"type": "llama3"}}, "rope_type 'linear' beside type 'llama3'"),
        (
            {"use_bidirectional_attention": True, "is_causal": True},
            "use_bidirectional_attention True beside is_causal True",
        ),
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types ['sliding_attention', "),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5; expected 1.0"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config 'gptq'"),
    ],
)
def test_two_spellings_of_one_setting(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as error:
        shape_of_config(Path("config.json"), LLAMA_CONFIG | change)
    assert says in str(error.value)


def test_spellings_that_agree(tmp_path: Path) -> None:
    plain = shape_of_config(Path("config.json"), LLAMA_CONFIG)
    both = {
        "num_kv_heads": 2,
        "n_layer": 3,
        "multi_query": False,
        "rope_scaling": {"type": "default", "rope_type": "default"},
        "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"},
        "use_bidirectional_attention": False,
        "is_causal": True,
        "layer_types": ["full_attention"] * 3,
    }
    assert shape_of_config(Path("config.json"), LLAMA_CONFIG | both) == plain
