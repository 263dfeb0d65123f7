"""A .gguf file of architecture llama: its shape, its tensors, and the fields of its tokenizer.

Tensors are read one by one, dequantised by `gguf`, under the names that `transformers` gives them.

One trap: these files hold the rows of the query and key projections in another order, for a rotary
layout of neighbouring pairs. Unless they are put back the model runs, and is wrong.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from scalingnote_jax.config import DecoderShape
from scalingnote_jax.errors import bad_input

_NAMES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class GgufFile:
    """The `TensorSource` (see `pretrained`) of such a file."""

    def __init__(self, path: Path):
        """Raises UserError: not a GGUF file, or of another architecture."""
        self.path = path
        fields = read_gguf(path)
        self.shape = _shape(path, fields)
        self._tensors = {_canonical(t.name): t for t in fields.tensors}
        self.names = frozenset(self._tensors)

    def read(self, name: str) -> np.ndarray:
        """A tensor as float32, dequantised."""
        tensor = self._tensors[name]
        value = np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if name.endswith("self_attn.q_proj.weight"):
            return _half_split(value, self.shape.num_heads)
        if name.endswith("self_attn.k_proj.weight"):
            return _half_split(value, self.shape.num_kv_heads)
        return value


class GgufFields:
    """The header of a GGUF file: metadata by key, and where the tensors are."""

    def __init__(self, path: Path):
        self.path = path
        reader = gguf.GGUFReader(path)
        self._fields = reader.fields
        self.tensors: list[Any] = reader.tensors

    def get(self, key: str, default: Any = None) -> Any:
        """A value, or `default` where the file has none."""
        return self._fields[key].contents() if key in self._fields else default

    def __getitem__(self, key: str) -> Any:
        if key not in self._fields:
            raise bad_input(str(self.path), f"no field {key}", "one", "use another file")
        return self.get(key)


def read_gguf(path: Path) -> GgufFields:
    """The header of a file; kept, because it takes a second or two to parse a large vocabulary."""
    stat = path.stat()
    return _read_gguf(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read_gguf(path: Path, size: int, mtime_ns: int) -> GgufFields:
    try:
        return GgufFields(path)
    except Exception as e:  # the reader raises whatever its parsing meets in a damaged file
        raise bad_input(
            str(path), f"cannot be read ({e})", "a complete GGUF file", "fetch it again"
        ) from e


def _canonical(name: str) -> str:
    """blk.3.attn_q.weight → layers.3.self_attn.q_proj.weight; an unknown name stays as it is."""
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if not match or match[2] not in _NAMES:
        return name
    layer = f"layers.{match[1]}." if match[1] else ""
    return f"{layer}{_NAMES[match[2]]}.{match[3]}"


def _half_split(weight: np.ndarray, heads: int) -> np.ndarray:
    """[H·K, E] with the rows of a head as (0, K/2, 1, K/2+1, …) → as (0, 1, 2, …)."""
    rows, fan_in = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, fan_in)
    return pairs.swapaxes(1, 2).reshape(rows, fan_in)


def _shape(path: Path, fields: GgufFields) -> DecoderShape:
    kind = fields["general.architecture"]
    if kind != "llama":
        raise bad_input(str(path), f"architecture {kind!r}", "'llama'", "use another model")
    heads = fields["llama.attention.head_count"]
    hidden = fields["llama.embedding_length"]
    head_dim = fields.get("llama.attention.key_length", hidden // heads)
    for field, given, wanted in (
        ("rope.dimension_count", fields.get("llama.rope.dimension_count", head_dim), head_dim),
        ("rope.scaling.type", fields.get("llama.rope.scaling.type", "none"), "none"),
        ("expert_count", fields.get("llama.expert_count", 0), 0),
    ):
        if given != wanted:
            raise bad_input(str(path), f"llama.{field} {given}", str(wanted), "use another model")
    return DecoderShape(
        vocab_size=fields.get("llama.vocab_size") or len(fields["tokenizer.ggml.tokens"]),
        hidden_size=hidden,
        intermediate_size=fields["llama.feed_forward_length"],
        num_layers=fields["llama.block_count"],
        num_heads=heads,
        num_kv_heads=fields.get("llama.attention.head_count_kv", heads),
        head_dim=head_dim,
        rope_theta=float(fields.get("llama.rope.freq_base", 10_000.0)),
        # Stored as float32: rounding gives back the number that was meant.
        norm_eps=round(float(fields["llama.attention.layer_norm_rms_epsilon"]), 12),
    )
