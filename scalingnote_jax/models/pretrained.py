"""Pretrained weights as our parameters: from a pip package, a Hugging Face folder or a GGUF file.

Only what is needed is read, and when it is: tensor by tensor, into the parts of our parameters that
this process holds; the first layers only if that is all that is asked for. A model with a tensor
too few or too many is refused, because it would be another model. Not for writing weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.bodies import Shape, body_blueprint
from scalingnote_jax.models.gguf_file import GgufFile
from scalingnote_jax.models.hf_folder import HfFolder
from scalingnote_jax.models.layouts import Layout, Stored, layout_of
from scalingnote_jax.models.locate import locate


@dataclass(frozen=True)
class Pretrained:
    """A body's weights.

    Attributes:
        shape: its shape, with the number of layers that were read.
        weights: by parameter path below the body ("layers/q", "embedding/table"), layers stacked;
            still on disk.
    """

    shape: Shape
    weights: dict[str, StoredWeight]


class StoredWeight:
    """A parameter that is still on disk; `np.asarray` reads it whole, `read` in parts."""

    def __init__(
        self, source: TensorSource, stored: Stored, shape: tuple[int, ...], dtype: np.dtype
    ):
        self.source, self.stored, self.shape, self.dtype = source, stored, shape, dtype

    def read(self, indices: list[tuple[slice, ...]]) -> list[np.ndarray]:
        """The parts of the parameter at `indices`.

        Each tensor is read once, and one at a time: beside the parts there is never more in memory
        than the largest of them.

        Raises:
            UserError: a tensor has another shape.
        """
        ranges = [
            tuple(s.indices(size)[:2] for s, size in zip(index, self.shape, strict=True))
            for index in indices
        ]
        parts = [np.empty([stop - start for start, stop in r], self.dtype) for r in ranges]
        stacked = "{i}" in self.stored.name
        for i in range(self.shape[0] if stacked else 1):
            shape = self.shape[1:] if stacked else self.shape
            tensor = _read(self.source, self.stored, self.stored.name.format(i=i), shape)
            for part, of_axes in zip(parts, ranges, strict=True):
                if not stacked:
                    part[...] = tensor[tuple(slice(*r) for r in of_axes)]
                elif of_axes[0][0] <= i < of_axes[0][1]:
                    part[i - of_axes[0][0]] = tensor[tuple(slice(*r) for r in of_axes[1:])]
        return parts

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        (whole,) = self.read([tuple(slice(None) for _ in self.shape)])
        return whole if dtype is None else whole.astype(dtype)


class TensorSource(Protocol):
    """A model on disk. Tensors have the names of `transformers`, without the body's prefix."""

    path: Path
    names: frozenset[str]

    @property
    def shape(self) -> Shape:
        """With all its layers."""
        ...

    def read(self, name: str) -> np.ndarray:
        """A tensor, in some float type."""
        ...


def open_weights(ref: str) -> TensorSource:
    """The model that `ref` means; reads headers only.

    Args:
        ref: "pip:PACKAGE", "hf:ORG/NAME", a folder of Hugging Face safetensors, or a .gguf file.

    Raises:
        UserError: no such model, or one that is damaged or of an unknown kind.
    """
    path = locate(ref)
    if path.is_dir():
        return HfFolder(path)
    if path.suffix == ".gguf":
        return GgufFile(path)
    raise bad_input(
        str(path), "a single file", "a folder or a .gguf file", "name the folder around it"
    )


def first_layers(shape: Shape, num_layers: int, where: str) -> Shape:
    """`shape` cut to its first `num_layers` layers; 0 keeps all.

    Raises:
        UserError: it has fewer.
    """
    if not 0 <= num_layers <= shape.num_layers:
        expected = f"0 (all) to {shape.num_layers}, the layers of the model"
        raise bad_input(where, f"num_layers {num_layers}", expected, "lower it")
    return replace(shape, num_layers=num_layers or shape.num_layers)


def shape_of(ref: str, num_layers: int = 0) -> Shape:
    """The shape of a pretrained body cut to its first `num_layers` layers (0 keeps all).

    Raises:
        UserError: as `open_weights` and `first_layers`.
    """
    return first_layers(open_weights(ref).shape, num_layers, ref)


def open_pretrained(
    ref: str, num_layers: int = 0, expected: Shape | None = None, dtype: str = "float32"
) -> Pretrained:
    """The weights of a pretrained body.

    Args:
        ref: as for `open_weights`.
        num_layers: read only the first so many layers; 0 reads all.
        expected: the shape that was planned with, if any; another one is refused before any tensor
            is read.
        dtype: of the weights.

    Raises:
        UserError: as `shape_of`; a tensor is missing or unknown.
    """
    source = open_weights(ref)
    shape = first_layers(source.shape, num_layers, ref)
    if expected not in (None, shape):
        raise bad_input(ref, f"weights of {shape}", f"the config's {expected}", "leave `shape` out")
    layout = layout_of(shape)
    _check_complete(source, layout)
    _, shapes, _ = body_blueprint(shape)
    wanted = traverse_util.flatten_dict(shapes, sep="/")
    assert wanted.keys() == layout.stored.keys(), wanted.keys() ^ layout.stored.keys()
    kind = jnp.dtype(dtype)
    weights = {p: StoredWeight(source, s, wanted[p].shape, kind) for p, s in layout.stored.items()}
    return Pretrained(shape, weights)


def _check_complete(source: TensorSource, layout: Layout) -> None:
    expected = layout.expected(source.shape.num_layers)
    missing = sorted(expected - source.names)
    unknown = sorted(n for n in source.names - expected if not layout.unused.fullmatch(n))
    problems = [
        f"{what} {len(names)} ({', '.join(names)})"
        for what, names in (("tensors missing:", missing), ("tensors without a use:", unknown))
        if names
    ]
    if problems:
        raise bad_input(
            str(source.path),
            "; ".join(problems),
            f"the {len(expected)} tensors of a {source.shape.num_layers}-layer model",
            "use complete weights of a supported architecture",
        )


def _read(source: TensorSource, stored: Stored, name: str, shape: tuple[int, ...]) -> np.ndarray:
    tensor, expected = source.read(name), stored.stored_shape(shape)
    if tensor.shape != expected:
        given = f"tensor {name} has shape {tensor.shape}"
        raise bad_input(str(source.path), given, str(expected), "use weights that fit their config")
    return stored.convert(tensor, shape)
