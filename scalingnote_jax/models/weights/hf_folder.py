"""A folder as `transformers` writes it: config.json and safetensors, whole or in shards.

Reads shapes from headers, and of tensors what is asked for. Pickled weights (pytorch_model.bin) are
never opened: unpickling runs whatever is inside.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from scalingnote_jax.config import DecoderShape
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.weights.families import is_bidirectional, shape_of_config

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Of a body inside a model with a head or, Gemma 3's, beside a vision tower; taken off in order.
_PREFIXES = ("language_model.", "model.", "language_model.", "bert.", "roberta.")


class HfFolder:
    """The `TensorSource` (see `pretrained`) of such a folder."""

    def __init__(self, folder: Path):
        """Raises UserError: config.json or weights are missing, broken or of another model type."""
        self.path = folder
        path = folder / "config.json"
        config = _json(path)
        self.shape = shape_of_config(path, config)
        self.bidirectional = isinstance(self.shape, DecoderShape) and is_bidirectional(config)
        files = _files_of_tensors(folder)
        self._places = {_canonical(name): (name, file) for name, file in files.items()}
        self.names = frozenset(self._places)

    def tensor_shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        with self._open(name) as tensor:
            return tuple(tensor.get_shape())

    def read(self, name: str, *index: slice) -> np.ndarray:
        """A tensor or the part of it at `index`, in the float type that it is stored in."""
        with self._open(name) as tensor:
            return tensor[index or (slice(None),)]

    @contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        # Anew each time: while a file is open, what was read of it stays in our memory.
        stored, path = self._places[name]
        try:
            with safe_open(path, framework="numpy") as file:
                yield file.get_slice(stored)
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
