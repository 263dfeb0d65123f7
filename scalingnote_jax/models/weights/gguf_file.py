"""A .gguf file: its shape, its tensors, and the fields of its tokenizer.

Tensors are read in parts, dequantised by `gguf`, under the names that `transformers` gives them.

Three traps, and with each the model runs, and is wrong. Files of architecture llama hold the rows
of the query and key projections in another order, for a rotary layout of neighbouring pairs; and
those of Llama 3 a tensor of what the rotation is slowed by, in place of the settings that it comes
from. Files of Gemma hold the scales of norms themselves, where `transformers` stores them less one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from scalingnote_jax.config import DecoderShape, RopeScaling
from scalingnote_jax.errors import bad_input
from scalingnote_jax.files.guard import reading
from scalingnote_jax.models.layers.rope import frequencies
from scalingnote_jax.text.gguf_fields import GgufFields, read_gguf

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
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
_GEMMA_NAMES = _NAMES | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_MOST, _MOST_LAYERS = 2**24, 4096  # that a field of a shape may say
_SLOWED_BY = "rope_freqs.weight"


class GgufFile:
    """The `TensorSource` (see `pretrained`) of such a file."""

    def __init__(self, path: Path):
        """Raises UserError: not a GGUF file, not a whole model, or of another architecture."""
        self.path = path
        with reading(path, "a whole .gguf file"):
            self._read_header(path)

    def _read_header(self, path: Path) -> None:
        fields = read_gguf(path)
        _check_whole(path, fields)
        self._architecture: str = fields["general.architecture"]
        self.bidirectional = not fields.get(f"{self._architecture}.attention.causal", True)
        self.shape = _shape(path, fields, self._architecture)
        names = _GEMMA_NAMES if self.shape.gemma else _NAMES
        self._tensors = {_canonical(t.name, names): t for t in fields.tensors}
        if self._architecture == "llama" and _SLOWED_BY in self._tensors:
            scaling = _scaling(path, self.read(_SLOWED_BY), self.shape)
            self.shape = replace(self.shape, rope_scaling=scaling)
            del self._tensors[_SLOWED_BY]
        self.names = frozenset(self._tensors)
        cap = float(fields.get(f"{self._architecture}.final_logit_softcapping", 0))
        self.own_head = f"final_logit_softcapping {cap:g}" if cap else ""
        if "lm_head.weight" in self.names:  # files of tied models have none
            self.own_head = "output.weight"

    def check(self) -> None:
        """As `TensorSource.check`: names in such a file are unique."""

    def tensor_shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return tuple(int(n) for n in reversed(self._tensors[name].shape))

    def read(self, name: str, *index: slice) -> np.ndarray:
        """A tensor or the part of it at `index`, whole heads of it, as float32, dequantised."""
        tensor, (rows, *columns) = self._tensors[name], index or (slice(None),)
        value = np.asarray(gguf.dequantize(tensor.data[rows], tensor.tensor_type), np.float32)
        value = value[(slice(None), *columns)]
        if self.shape.gemma and name.endswith("norm.weight"):
            return value - 1
        if self._architecture != "llama":
            return value
        if name.endswith(("self_attn.q_proj.weight", "self_attn.k_proj.weight")):
            return _half_split(value, self.shape.head_dim)
        return value


def _check_whole(path: Path, fields: GgufFields) -> None:
    if (kind := fields.get("general.type", "model")) != "model":
        given, fix = f"a file of type {kind!r}", "merge it into its model, and name that file"
        raise bad_input(str(path), given, "a model", fix)
    if (parts := fields.get("split.count", 0)) > 1:
        fix = "join them with `gguf-split --merge`"
        raise bad_input(str(path), f"one of {parts} parts", "a whole model", fix)


def _canonical(name: str, names: dict[str, str]) -> str:
    """blk.3.attn_q.weight → layers.3.self_attn.q_proj.weight; an unknown name stays as it is."""
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if not match or match[2] not in names:
        return name
    layer = f"layers.{match[1]}." if match[1] else ""
    return f"{layer}{names[match[2]]}.{match[3]}"


def _half_split(weight: np.ndarray, head_dim: int) -> np.ndarray:
    """[H·K, E] with the rows of a head as (0, K/2, 1, K/2+1, …) → as (0, 1, 2, …)."""
    rows, fan_in = weight.shape
    pairs = weight.reshape(-1, head_dim // 2, 2, fan_in)
    return pairs.swapaxes(1, 2).reshape(rows, fan_in)


def _scaling(path: Path, slowed_by: np.ndarray, shape: DecoderShape) -> RopeScaling | None:
    """The settings behind the divisors of the frequencies, [K/2].

    Only the factor differs between Llama 3.1, 3.2 and 3.3; it is that of the slowest pairs.
    """
    scaling = RopeScaling("llama3", float(slowed_by.max()))
    if shape.rope_scaling is None:
        plain = frequencies(shape.head_dim, shape.rope_theta)
        wanted = plain / frequencies(shape.head_dim, shape.rope_theta, scaling)
        # The file's were computed in float32.
        if slowed_by.shape == wanted.shape and np.allclose(slowed_by, wanted, rtol=1e-4, atol=0):
            return scaling if scaling.factor > 1 else None
    raise bad_input(
        str(path),
        f"{_SLOWED_BY} from {slowed_by.min():g} to {scaling.factor:g}",
        f"what Llama 3 has (low_freq_factor {scaling.low_turns:g}, high_freq_factor "
        f"{scaling.high_turns:g}, {scaling.old_positions} positions), and no other stretching",
        "use the model's folder of safetensors",
    )


class _Keys:
    """The metadata of one architecture, by key without its prefix."""

    def __init__(self, path: Path, fields: GgufFields, kind: str):
        self.path, self.fields, self.kind = path, fields, kind

    def __getitem__(self, key: str) -> Any:
        value = self.fields[f"{self.kind}.{key}"]
        most = _MOST_LAYERS if key == "block_count" else _MOST
        if isinstance(value, int) and not 0 <= value <= most:
            given = f"{self.kind}.{key} {value}"
            raise bad_input(str(self.path), given, f"0 to {most}", "fetch it again")
        return value

    def get(self, key: str, default: Any) -> Any:
        return self.fields.get(f"{self.kind}.{key}", default)

    def require(self, key: str, *allowed: Any) -> None:
        """Refuses another value than the `allowed`; a file without the key means the first."""
        given = self.get(key, allowed[0])
        if given not in allowed:
            wanted = " or ".join(map(str, allowed))
            raise bad_input(
                str(self.path), f"{self.kind}.{key} {given}", wanted, "use another model"
            )


def _shape(path: Path, fields: GgufFields, kind: str) -> DecoderShape:
    if kind not in _SPECIAL:
        known = f"one of {sorted(_SPECIAL)}"
        raise bad_input(str(path), f"architecture {kind!r}", known, "use another model")
    keys = _Keys(path, fields, kind)
    heads, hidden = keys["attention.head_count"], keys["embedding_length"]
    head_dim = keys.get("attention.key_length", hidden // heads)
    keys.require("rope.dimension_count", head_dim)
    keys.require("rope.scaling.type", "none", "linear")
    keys.require("expert_count", 0)
    linear = keys.get("rope.scaling.type", "none") == "linear"
    return DecoderShape(
        vocab_size=keys.get("vocab_size", 0) or len(fields["tokenizer.ggml.tokens"]),
        hidden_size=hidden,
        intermediate_size=keys["feed_forward_length"],
        num_layers=keys["block_count"],
        num_heads=heads,
        num_kv_heads=keys.get("attention.head_count_kv", heads),
        head_dim=head_dim,
        rope_theta=float(keys.get("rope.freq_base", 10_000.0)),
        rope_scaling=RopeScaling("linear", keys["rope.scaling.factor"]) if linear else None,
        # Stored as float32: rounding gives back the number that was meant.
        norm_eps=round(float(keys["attention.layer_norm_rms_epsilon"]), 12),
        **_SPECIAL[kind](keys, head_dim),
    )


def _gemma(keys: _Keys, head_dim: int, largest: int, every: int) -> dict[str, Any]:
    keys.require("attention.causal", True)  # how far its windows would reach is not said
    # Not in the file: only the largest model of each generation divides scores by another root.
    other = keys["embedding_length"] // keys["attention.head_count"]
    return {
        "gemma": True,
        "score_dim": other if keys["block_count"] == largest else head_dim,
        "score_cap": float(keys.get("attn_logit_softcapping", 0)),
        "window": keys["attention.sliding_window"],
        "global_every": every,
    }


# Architecture → what its shape has beside the fields of a Llama.
_SPECIAL: dict[str, Callable[[_Keys, int], dict[str, Any]]] = {
    "llama": lambda keys, head_dim: {},
    "qwen2": lambda keys, head_dim: {"qkv_bias": True},
    "qwen3": lambda keys, head_dim: {"qk_norm": True},
    "gemma2": lambda keys, head_dim: _gemma(keys, head_dim, largest=46, every=2),
    "gemma3": lambda keys, head_dim: {
        **_gemma(keys, head_dim, largest=62, every=6),
        "qk_norm": True,
        "local_rope_theta": float(keys.get("rope.freq_base_swa", 10_000.0)),
    },
}
