"""A folder as `transformers` writes it: config.json and safetensors, whole or in shards.

Reads shapes from headers, and of tensors what is asked for. Pickled weights (pytorch_model.bin) are
never opened: unpickling runs whatever is inside.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from safetensors import SafetensorError, safe_open

from scalingnote_jax.config import DecoderShape
from scalingnote_jax.errors import bad_input
from scalingnote_jax.files.guard import reading
from scalingnote_jax.files.typed_json import NAME, Each
from scalingnote_jax.models.weights.families import (
    is_bidirectional,
    is_tied,
    logit_cap,
    shape_of_config,
)
from scalingnote_jax.models.weights.json_files import read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PROJECTION = "projection.safetensors"  # of our own exports; read by `beside/own_export.py`
_HEAD, _TABLE = "lm_head.weight", "embed_tokens.weight"
_Place: TypeAlias = tuple[str, Path]  # the name of a tensor, and its file
_COMPARED = 2**22  # numbers that are compared at a time
# Of a body inside a model with a head or, Gemma 3's, beside a vision tower; taken off in order.
_PREFIXES = ("language_model.", "model.", "language_model.", "bert.", "roberta.")


class HfFolder:
    """The `TensorSource` (see `pretrained`) of such a folder."""

    def __init__(self, folder: Path):
        """
        Raises:
            UserError: config.json or weights are missing, broken or of another model type; or there
                are two sets of weights, or an adapter that the weights are not whole without.
        """
        self.path = folder
        with reading(folder, "a folder that save_pretrained wrote"):
            self._read_headers(folder)

    def _read_headers(self, folder: Path) -> None:
        _check_adapter(folder)
        path = folder / "config.json"
        config = read_json(path)
        self.shape = shape_of_config(path, config)
        self.bidirectional = isinstance(self.shape, DecoderShape) and is_bidirectional(config)
        files = _files_of_tensors(folder)
        self._places: dict[str, _Place] = {}
        self._twins: list[tuple[_Place, _Place]] = []  # names of one tensor
        for name, file in files.items():
            before = self._places.setdefault(_canonical(name), (name, file))
            if before != (name, file):
                self._twins.append((before, (name, file)))
        self.names = frozenset(self._places)
        self.own_head = self._own_head(config)

    def _own_head(self, config: dict[str, Any]) -> str:
        """As `TensorSource.own_head`. A head that is said to be the table has to be it."""
        if not isinstance(self.shape, DecoderShape):
            return "an encoder has none"
        if not is_tied(config):
            there = "" if _HEAD in self.names else ", which is not in the folder"
            return f"{_HEAD} (tie_word_embeddings is false){there}"
        if _HEAD in self.names and _TABLE in self.names:
            self._twins.append((self._places[_TABLE], self._places[_HEAD]))
        return f"final_logit_softcapping {cap:g}" if (cap := logit_cap(config)) else ""

    def check(self) -> None:
        """Refuses tensors of one meaning that differ; reads only such, in parts.

        Raises:
            UserError: names both.
        """
        for one, other in self._twins:
            _check_equal(self.path, one, other)

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
        with open_tensor(*self._places[name]) as tensor:
            yield tensor


@contextmanager
def open_tensor(name: str, path: Path) -> Iterator[Any]:
    """A tensor of a safetensors file, to be read in parts.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            yield file.get_slice(name)
    except (SafetensorError, OSError) as e:
        raise _damaged(path, e) from e


def tensor_names(path: Path) -> list[str]:
    """The names of the tensors in a safetensors file; raises as `open_tensor`."""
    try:
        with safe_open(path, framework="numpy") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as e:
        raise _damaged(path, e) from e


def _check_equal(folder: Path, one: _Place, other: _Place) -> None:
    """Compares in parts of some rows."""
    with open_tensor(*one) as a, open_tensor(*other) as b:
        shape = a.get_shape()
        rows = shape[0] if shape else 1
        step = max(1, _COMPARED // max(1, math.prod(shape[1:])))
        cuts = [slice(i, min(i + step, rows)) for i in range(0, rows, step)]
        same = b.get_shape() == shape and all(np.array_equal(a[c], b[c]) for c in cuts)
    if not same:
        (name, file), (other_name, other_file) = one, other
        where = "" if file == other_file else f" in {file.name} and {other_file.name}"
        raise bad_input(
            str(folder),
            f"{name} and {other_name}{where} are one tensor, and differ",
            "one content",
            "take the wrong one out, or correct tie_word_embeddings",
        )


def _check_adapter(folder: Path) -> None:
    found = sorted(p.name for p in folder.glob("adapter_*") if p.is_file())
    if found:
        beside = " beside weights" if (folder / "config.json").is_file() else ", and no weights"
        raise bad_input(
            str(folder),
            f"an adapter ({', '.join(found)}){beside}",
            "weights that are whole without one",
            "merge it (PEFT: merge_and_unload, then save_pretrained), and name that folder",
        )


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
    if not (folder / INDEX).is_file():
        _check_single(folder)
        _check_no_others(folder, {SINGLE})
        return dict.fromkeys(tensor_names(folder / SINGLE), folder / SINGLE)
    places: dict[str, str] = read_json(folder / INDEX, {"weight_map": Each(NAME)})["weight_map"]
    files = sorted(set(places.values()))
    for file in files:
        if not (folder / file).is_file():
            raise bad_input(
                str(folder / file), "missing", f"the shard that {INDEX} names", "fetch it"
            )
        listed = {name for name, place in places.items() if place == file}
        if differing := sorted(listed ^ set(tensor_names(folder / file))):
            raise bad_input(
                str(folder / file),
                f"tensors other than {INDEX} says: {', '.join(differing)}",
                "just those that it says",
                "save the model again",
            )
    _check_no_others(folder, set(files))
    return {name: folder / file for name, file in places.items()}


def _check_single(folder: Path) -> None:
    if (folder / SINGLE).is_file():
        return
    pickled = sorted(p.name for p in [*folder.glob("*.bin"), *folder.glob("*.pt")])
    raise bad_input(
        str(folder),
        f"only pickled weights ({', '.join(pickled)})" if pickled else "no weights",
        f"{SINGLE} or {INDEX}",
        "save the model with safe_serialization=True; pickles are not opened, they can run code"
        if pickled
        else "name a folder that save_pretrained wrote",
    )


def _check_no_others(folder: Path, read: set[str]) -> None:
    """Refuses a second set of weights: which of the two is meant is not ours to guess."""
    others = sorted({p.name for p in folder.glob("*.safetensors")} - read - {PROJECTION})
    if others:
        raise bad_input(
            str(folder),
            f"two sets of weights: {', '.join(sorted(read))} beside {', '.join(others)}",
            "one",
            "move the other one out of the folder",
        )
