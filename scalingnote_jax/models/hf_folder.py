"""A folder as `transformers` writes it: config.json and safetensors, whole or in shards.

Reads shapes from headers and tensors one by one. Pickled weights (pytorch_model.bin) are never
opened: unpickling runs whatever is inside.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from scalingnote_jax.config import BertShape, DecoderShape
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.bodies import Shape

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_PREFIXES = ("model.", "bert.")  # of a body inside a model with a head


class HfFolder:
    """The `TensorSource` (see `pretrained`) of such a folder."""

    def __init__(self, folder: Path):
        """Raises UserError: config.json or weights are missing, broken or of another model type."""
        self.path = folder
        self.shape = _shape(folder / "config.json")
        files = _files_of_tensors(folder)
        self._places = {_canonical(name): (name, file) for name, file in files.items()}
        self.names = frozenset(self._places)

    def read(self, name: str) -> np.ndarray:
        """A tensor as float32, whatever float type it is stored in."""
        stored, path = self._places[name]
        try:
            with safe_open(path, framework="numpy") as file:
                return np.asarray(file.get_tensor(stored), dtype=np.float32)
        except (SafetensorError, OSError) as e:
            raise _damaged(path, e) from e


def _canonical(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    # The first BERT checkpoints, bert-base-uncased among them, have kept TensorFlow's names.
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )


def _damaged(path: Path, error: Exception) -> Exception:
    return bad_input(str(path), f"cannot be read ({error})", "safetensors", "fetch the file again")


def _files_of_tensors(folder: Path) -> dict[str, Path]:
    """{name of a tensor: the file that holds it}."""
    if (folder / INDEX).is_file():
        shards: dict[str, str] = _json(folder / INDEX).get("weight_map", {})
        for shard in sorted(set(shards.values())):
            if not (folder / shard).is_file():
                raise bad_input(
                    str(folder / shard), "missing", f"the shard that {INDEX} names", "fetch it"
                )
        return {name: folder / shard for name, shard in shards.items()}
    if not (folder / SINGLE).is_file():
        pickled = sorted(p.name for p in [*folder.glob("*.bin"), *folder.glob("*.pt")])
        raise bad_input(
            str(folder),
            f"only pickled weights ({', '.join(pickled)})" if pickled else "no weights",
            f"{SINGLE} or {INDEX}",
            "save the model with safe_serialization=True; pickles are not opened, they can run code"
            if pickled
            else "name a folder that save_pretrained wrote",
        )
    try:
        with safe_open(folder / SINGLE, framework="numpy") as file:
            return dict.fromkeys(file.keys(), folder / SINGLE)
    except (SafetensorError, OSError) as e:
        raise _damaged(folder / SINGLE, e) from e


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise bad_input(
            str(path), "no such file", f"{path.name} beside the weights", "name a complete folder"
        ) from e
    except ValueError as e:
        raise bad_input(str(path), f"not JSON ({e})", "a JSON object", "fetch it again") from e
    if not isinstance(values, dict):
        raise bad_input(str(path), "not an object", "a JSON object", "fetch it again")
    return values


def _shape(path: Path) -> Shape:
    config = _json(path)
    kinds: dict[str, Callable[[Path, dict[str, Any]], Shape]] = {
        "llama": _llama_shape,
        "bert": _bert_shape,
    }
    kind = str(config.get("model_type"))
    if kind not in kinds:
        raise bad_input(
            str(path), f"model_type {kind!r}", f"one of {sorted(_SHAPES)}", "use another model"
        )
    try:
        return _SHAPES[kind](path, config)
    except KeyError as e:
        raise bad_input(
            str(path), f"no field {e}", f"a complete {kind} config", "fetch it again"
        ) from e


def _require(path: Path, config: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuses settings that would compute something else than our modules do."""
    for field, value in wanted.items():
        given = config.get(field, value)
        if given != value and given is not None:
            raise bad_input(str(path), f"{field} {given!r}", repr(value), "use another model")


def _llama_shape(path: Path, config: dict[str, Any]) -> DecoderShape:
    plain = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
    _require(path, config, plain)
    # transformers 5 writes rope_parameters; 4 wrote rope_theta, and rope_scaling if there is any.
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    _require(path, {"rope_type": rope.get("rope_type", rope.get("type"))}, {"rope_type": "default"})
    heads = config["num_attention_heads"]
    return DecoderShape(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        rope_theta=float(rope.get("rope_theta", config.get("rope_theta", 10_000.0))),
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
    )


def _bert_shape(path: Path, config: dict[str, Any]) -> BertShape:
    plain = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
    _require(path, config, plain)
    return BertShape(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        max_positions=config["max_position_embeddings"],
        type_vocab_size=config.get("type_vocab_size", 2),
        norm_eps=float(config.get("layer_norm_eps", 1e-12)),
    )


_SHAPES: dict[str, Callable[[Path, dict[str, Any]], Shape]] = {
    "llama": _llama_shape,
    "bert": _bert_shape,
}
