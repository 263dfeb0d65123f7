"""Pretrained weights as our parameters: from a pip package, a Hugging Face folder or a GGUF file.

Only what is needed is read, and when it is: some MiB at a time, into the parts of our parameters
that this process holds; the first layers only if that is all that is asked for. A model with a
tensor too few, too many or of another shape is refused, because it would be another model. Not for
writing weights.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from flax import traverse_util

from scalingnote_jax.config.towers import NO_LAYERS, Shape
from scalingnote_jax.errors import bad_input
from scalingnote_jax.files.guard import reading
from scalingnote_jax.hub import locate
from scalingnote_jax.models.bodies import body_blueprint
from scalingnote_jax.models.weights.beside.completion import settings_of
from scalingnote_jax.models.weights.beside.folder_settings import FolderSettings
from scalingnote_jax.models.weights.gguf_file import GgufFile
from scalingnote_jax.models.weights.hf_folder import HfFolder
from scalingnote_jax.models.weights.layouts import Layout, Ranges, Stored, layout_of
from scalingnote_jax.progress import say

_BLOCK_VALUES = 2**22  # read at once: 16 MiB of float32
_NAMED = 8  # of the tensors that are not read


@dataclass(frozen=True)
class Pretrained:
    """A body's weights.

    Attributes:
        shape: its shape, with the number of layers that were read.
        weights: by parameter path below the body ("layers/q", "embedding/table"), layers stacked;
            still on disk.
        settings: what stands beside it; None: nothing, or it was not looked at.
    """

    shape: Shape
    weights: dict[str, StoredWeight]
    settings: FolderSettings | None = None


class StoredWeight:
    """A parameter that is still on disk; `np.asarray` reads it whole, `read` in parts."""

    def __init__(
        self, source: TensorSource, stored: Stored, shape: tuple[int, ...], dtype: np.dtype
    ):
        self.source, self.stored, self.shape, self.dtype = source, stored, shape, dtype
        self.stacked = int(stored.stacked)

    def astype(self, dtype: Any) -> StoredWeight:
        """The same, to be read in another type."""
        return StoredWeight(self.source, self.stored, self.shape, np.dtype(dtype))

    def read(self, indices: list[tuple[slice, ...]]) -> list[np.ndarray]:
        """The parts of the parameter at `indices`.

        What lies between the first and the last of them is read once, block by block: beside the
        parts there is never more in memory than a few blocks.
        """
        wanted = [
            tuple(s.indices(size)[:2] for s, size in zip(index, self.shape, strict=True))
            for index in indices
        ]
        parts = [np.empty(_sizes(ranges), self.dtype) for ranges in wanted]
        around = tuple((min(a)[0], max(r[1] for r in a)) for a in zip(*wanted, strict=True))
        for block in self._blocks(around):
            value = self._read(block)
            for part, ranges in zip(parts, wanted, strict=True):
                pairs = zip(block, ranges, strict=True)
                common = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in pairs)
                if all(start < stop for start, stop in common):
                    part[_within(common, ranges)] = value[_within(common, block)]
        return parts

    def _blocks(self, around: Ranges) -> Iterator[Ranges]:
        """`around` in pieces of one layer and some neighbouring rows of its tensor."""
        axis = self.stacked + self.stored.inputs
        start, stop = around[axis]
        row = math.prod(_sizes(around[self.stacked :])) // (stop - start)
        step = max(1, _BLOCK_VALUES // row)
        for i in range(*around[0]) if self.stacked else (0,):
            layer = ((i, i + 1), *around[1:]) if self.stacked else around
            for first in range(start, stop, step):
                rows = (first, min(first + step, stop))
                yield (*layer[:axis], rows, *layer[axis + 1 :])

    def _read(self, block: Ranges) -> np.ndarray:
        of_layer = block[self.stacked :]
        if block[0][0] < self.stored.first:
            return np.ones((1, *_sizes(of_layer)), np.float32)
        name = self.stored.name.format(i=block[0][0])
        index = self.stored.stored_index(of_layer, self.shape[self.stacked :])
        value = self.stored.convert(self.source.read(name, *index), _sizes(of_layer))
        return value[None] if self.stacked else value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        (whole,) = self.read([tuple(slice(None) for _ in self.shape)])
        return whole if dtype is None else whole.astype(dtype)


def _sizes(ranges: Ranges) -> tuple[int, ...]:
    return tuple(stop - start for start, stop in ranges)


def _within(ranges: Ranges, outer: Ranges) -> tuple[slice, ...]:
    pairs = zip(ranges, outer, strict=True)
    return tuple(slice(start - first, stop - first) for (start, stop), (first, _) in pairs)


class TensorSource(Protocol):
    """A model on disk. Tensors have the names of `transformers`, without the body's prefix."""

    path: Path
    names: frozenset[str]
    bidirectional: bool  # a decoder whose config says that tokens see later ones too
    own_head: str  # what a language model's head is beside the embedding table; "": nothing

    @property
    def shape(self) -> Shape:
        """With all its layers."""
        ...

    def check(self) -> None:
        """Refuses tensors that contradict each other."""
        ...

    def tensor_shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; no value is read."""
        ...

    def read(self, name: str, *index: slice) -> np.ndarray:
        """A tensor, or the part of it at `index`, in some float type."""
        ...


def open_weights(ref: str, bidirectional: bool = False) -> TensorSource:
    """The model that `ref` means; reads headers only.

    Args:
        ref: "pip:PACKAGE", "hf:ORG/NAME", a folder of Hugging Face safetensors, or a .gguf file.
        bidirectional: of the tower. True takes causal models too, for training to change them.

    Raises:
        UserError: no such model, or one that is damaged or of an unknown kind; or its tokens see
            later ones, and the tower's would not.
    """
    path = locate(ref)
    if not path.is_dir() and path.suffix != ".gguf":
        raise bad_input(
            str(path), "a single file", "a folder or a .gguf file", "name the folder around it"
        )
    source = HfFolder(path) if path.is_dir() else GgufFile(path)
    if source.bidirectional and not bidirectional:
        given = "a model whose tokens see later ones too, in a tower where they do not"
        raise bad_input(str(path), given, "both alike", "set bidirectional=True in the tower")
    return source


def first_layers(shape: Shape, num_layers: int, where: str) -> Shape:
    """`shape` cut to its first `num_layers` layers; 0 keeps all, `NO_LAYERS` none.

    Raises:
        UserError: it has fewer.
    """
    if num_layers == NO_LAYERS:
        return replace(shape, num_layers=0)
    if not 0 <= num_layers <= shape.num_layers:
        expected = f"0 (all) to {shape.num_layers}, the layers of the model"
        raise bad_input(where, f"num_layers {num_layers}", expected, "change it")
    return replace(shape, num_layers=num_layers or shape.num_layers)


def shape_of(ref: str, num_layers: int = 0, bidirectional: bool = False) -> Shape:
    """The shape of a pretrained body cut to its first `num_layers` layers (0 keeps all).

    Args:
        ref, bidirectional: as for `open_weights`.

    Raises:
        UserError: as `open_weights` and `first_layers`.
    """
    return first_layers(open_weights(ref, bidirectional).shape, num_layers, ref)


def open_pretrained(
    ref: str,
    num_layers: int = 0,
    expected: Shape | None = None,
    bidirectional: bool = False,
    body_only: bool = False,
) -> Pretrained:
    """The weights of a pretrained body, in float32. Says what there is beside them, and which
    tensors are not read.

    Args:
        ref, bidirectional: as for `open_weights`.
        num_layers: read only the first so many layers; 0 reads all.
        expected: the shape that was planned with, if any; another one is refused before any tensor
            is read.
        body_only: as in `TowerConfig`.

    Raises:
        UserError: as `shape_of` and `settings_of`; a tensor is missing, unknown, of another shape,
            or there twice.
    """
    source = open_weights(ref, bidirectional)
    settings = None if body_only else settings_of(source.path)
    shape = first_layers(source.shape, num_layers, ref)
    if expected not in (None, shape):
        raise bad_input(ref, f"weights of {shape}", f"the config's {expected}", "leave `shape` out")
    with reading(source.path, "weights that fit their config"):
        _check_complete(source, layout_of(source.shape))
        source.check()
        weights = _stored_weights(source, shape)
        _say_what_else(source, settings)
    return Pretrained(shape, weights, settings)


def _stored_weights(source: TensorSource, shape: Shape) -> dict[str, StoredWeight]:
    layout, (_, shapes, _) = layout_of(shape), body_blueprint(shape)
    wanted = traverse_util.flatten_dict(shapes, sep="/")
    assert wanted.keys() == layout.stored.keys(), wanted.keys() ^ layout.stored.keys()
    kind = np.dtype(np.float32)
    weights = {p: StoredWeight(source, s, wanted[p].shape, kind) for p, s in layout.stored.items()}
    for weight in weights.values():
        _check_shape(weight)
    return weights


def _say_what_else(source: TensorSource, settings: FolderSettings | None) -> None:
    unread = sorted(source.names - layout_of(source.shape).expected(source.shape.num_layers))
    more = f" and {len(unread) - _NAMED} more" if len(unread) > _NAMED else ""
    parts = [settings.said] if settings else []
    if unread:
        parts.append(f"not read: {', '.join(unread[:_NAMED])}{more}")
    if parts:
        _say_once(f"{source.path}: the body; {'; '.join(parts)}")


@functools.cache
def _say_once(line: str) -> None:
    """A model that both sides use, or that is opened again, is said once."""
    say(line)


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


def _check_shape(weight: StoredWeight) -> None:
    source, expected = weight.source, weight.stored.stored_shape(weight.shape[weight.stacked :])
    for i in range(weight.stored.first, weight.shape[0] if weight.stacked else 1):
        name = weight.stored.name.format(i=i)
        if (found := source.tensor_shape(name)) != expected:
            given, fix = f"tensor {name} has shape {found}", "use weights that fit their config"
            raise bad_input(str(source.path), given, str(expected), fix)
