"""Small pretrained models written as their makers do: safetensors folders and GGUF files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file

from scalingnote_jax.models.weights.pretrained import Pretrained, open_pretrained

E, H, G, K, F, V, LAYERS = 32, 4, 2, 8, 64, 48, 3  # the small Llama
BE, BH, BF, BV, POSITIONS = 24, 3, 40, 30, 20  # the small BERT, of as many layers

LLAMA_CONFIG = {
    "model_type": "llama",
    "vocab_size": V,
    "hidden_size": E,
    "intermediate_size": F,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": H,
    "num_key_value_heads": G,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "hidden_act": "silu",
}
BERT_CONFIG = {
    "model_type": "bert",
    "vocab_size": BV,
    "hidden_size": BE,
    "intermediate_size": BF,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": BH,
    "max_position_embeddings": POSITIONS,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}

Tensors = dict[str, np.ndarray]


def load_pretrained(ref: str, num_layers: int = 0) -> Pretrained:
    """`open_pretrained` with all weights read."""
    found = open_pretrained(ref, num_layers)
    return replace(found, weights={p: np.asarray(w) for p, w in found.weights.items()})


def llama_tensors() -> Tensors:
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (V, E), "norm.weight": (E,)}
    for i in range(LAYERS):
        shapes |= {
            f"layers.{i}.input_layernorm.weight": (E,),
            f"layers.{i}.self_attn.q_proj.weight": (H * K, E),
            f"layers.{i}.self_attn.k_proj.weight": (G * K, E),
            f"layers.{i}.self_attn.v_proj.weight": (G * K, E),
            f"layers.{i}.self_attn.o_proj.weight": (E, H * K),
            f"layers.{i}.post_attention_layernorm.weight": (E,),
            f"layers.{i}.mlp.gate_proj.weight": (F, E),
            f"layers.{i}.mlp.up_proj.weight": (F, E),
            f"layers.{i}.mlp.down_proj.weight": (E, F),
        }
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def bert_tensors() -> Tensors:
    rng = np.random.default_rng(1)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (BV, BE),
        "embeddings.position_embeddings.weight": (POSITIONS, BE),
        "embeddings.token_type_embeddings.weight": (2, BE),
        "embeddings.LayerNorm.weight": (BE,),
        "embeddings.LayerNorm.bias": (BE,),
    }
    for i in range(LAYERS):
        for name, (rows, columns) in {
            "attention.self.query": (BE, BE),
            "attention.self.key": (BE, BE),
            "attention.self.value": (BE, BE),
            "attention.output.dense": (BE, BE),
            "intermediate.dense": (BF, BE),
            "output.dense": (BE, BF),
        }.items():
            shapes[f"encoder.layer.{i}.{name}.weight"] = (rows, columns)
            shapes[f"encoder.layer.{i}.{name}.bias"] = (rows,)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"encoder.layer.{i}.{name}.weight"] = (BE,)
            shapes[f"encoder.layer.{i}.{name}.bias"] = (BE,)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def vectors(sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Biases or scales of every layer, by the end of their name."""
    rng = np.random.default_rng(5)
    names = [f"layers.{i}.{name}" for i in range(LAYERS) for name in sizes]
    return {n: rng.normal(size=sizes[n.split(".", 2)[2]]).astype(np.float32) for n in names}


HEAD_NORMS = {"self_attn.q_norm.weight": K, "self_attn.k_norm.weight": K}
SANDWICH = {f"{x}_feedforward_layernorm.weight": E for x in ("pre", "post")}


def write_hf(folder: Path, config: dict[str, Any], tensors: Tensors) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return str(folder)


def write_shards(folder: Path, config: dict[str, Any], tensors: Tensors) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(tensors)
    places = {n: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, n in enumerate(names)}
    for shard in set(places.values()):
        save_file({n: tensors[n] for n in names if places[n] == shard}, folder / shard)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return str(folder)


def pair_order(weight: np.ndarray, heads: int) -> np.ndarray:
    """As a GGUF file of a Llama holds q and k: each row just before its partner half a head on."""
    size = len(weight) // heads
    halves = weight.reshape(heads, 2, size // 2, -1)
    return np.stack([halves[:, 0], halves[:, 1]], axis=2).reshape(weight.shape)


TOKENS = ["<|end|>", "<|start|>", *"abcde0123456789", "Ġ", "ab", "abc", "Ġa"]
GGUF_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    # Gemma's, where post_attention_layernorm is another norm than Llama's of this name
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def write_gguf(
    path: Path,
    tensors: Tensors,
    change: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
    architecture: str = "llama",
    pre: str = "smollm",
) -> str:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(E)
    writer.add_feed_forward_length(F)
    writer.add_head_count(H)
    writer.add_head_count_kv(G)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500.0)
    writer.add_vocab_size(V)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3] + [1] * (len(TOKENS) - 2))
    writer.add_token_merges(["a b", "ab c", "Ġ a"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    change(writer)
    for name, value in tensors.items():
        match = re.fullmatch(r"(?:layers\.(\d+)\.)?(.+)\.(\w+)", name)
        assert match
        layer, kind, suffix = match.groups()
        if architecture.startswith("gemma"):
            value = value + 1 if kind.endswith("norm") else value
            kind = kind.replace("post_attention_layernorm", "post_attention_norm")
        if architecture == "llama" and kind.endswith(("q_proj", "k_proj")):
            value = pair_order(value, H if kind.endswith("q_proj") else G)
        place = f"blk.{layer}." if layer else ""
        writer.add_tensor(f"{place}{GGUF_NAMES.get(kind, kind)}.{suffix}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)
