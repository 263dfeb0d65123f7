"""The weights of a plain tower as they are stored by a tower that keeps its body in fewer bits, in
bfloat16 or quantised: arrays, and weights on their way from the disk. Not for how a weight is
quantised: that is `quantised.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from scalingnote_jax.config.towers import Shape
from scalingnote_jax.models.lora import SCALES, input_axes
from scalingnote_jax.models.quantised import Form, dtype_of_rest, is_form, quantise, tiles
from scalingnote_jax.models.weights.layouts import layout_of
from scalingnote_jax.models.weights.pretrained import StoredWeight


def store(weights: dict[str, Any], shape: Shape, base_dtype: str) -> dict[str, Any]:
    """Weights as a tower stores them.

    Args:
        weights: of a plain tower, path ("body/layers/q") → array or `StoredWeight`.
        shape: of its body.
        base_dtype: as in `LoraConfig`.

    Returns:
        path → array, `StoredWeight` or `StoredPart`; of what is quantised the codes, and under a
        path of their own ("body/layers/scale/q") the scales.
    """
    inputs = {f"body/{path}": s.inputs for path, s in layout_of(shape).stored.items() if s.inputs}
    stored = {}
    for path, weight in weights.items():
        if not path.startswith("body/"):
            stored[path] = weight
        elif path in inputs and is_form(base_dtype):
            scales = path.replace("layers/", f"layers/{SCALES}/")
            stored[path], stored[scales] = _pair(weight, input_axes(inputs[path]), base_dtype)
        else:
            stored[path] = weight.astype(dtype_of_rest(base_dtype))
    return stored


def _pair(weight: Any, inputs: tuple[int, ...], form: Form) -> tuple[Any, Any]:
    if isinstance(weight, StoredWeight):
        return StoredPart(weight, inputs, form, 0), StoredPart(weight, inputs, form, 1)
    return quantise(weight, inputs, form)


@dataclass(frozen=True)
class StoredPart:
    """The codes or the scales of a stacked linear weight that is still on disk as floats: for
    `sharding.place`, as that weight itself is. It reads a layer at a time, of that only what around
    the wanted part shares scales with it, and reads it for each of the two.

    Attributes:
        weight: [n, *in, *out].
        inputs: as for `tiles`.
        which: 0 for the codes, 1 for the scales.
    """

    weight: StoredWeight
    inputs: tuple[int, ...]
    form: Form
    which: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the codes or the scales."""
        return tuple(n // step for n, step in zip(self.weight.shape, self._steps, strict=True))

    @property
    def _tiles(self) -> tuple[int, ...]:
        return tiles(self.weight.shape, self.inputs, self.form)

    @property
    def _steps(self) -> tuple[int, ...]:
        """How many numbers of the weight one of this part's stands for, along each axis."""
        return self._tiles if self.which else (1,) * len(self.weight.shape)

    def read(self, indices: list[tuple[slice, ...]]) -> list[np.ndarray]:
        """The parts at `indices`, in one pass over the file."""
        sizes = self.shape
        wanted = [[range(n)[s] for s, n in zip(i, sizes, strict=True)] for i in indices]
        found: list[list[np.ndarray]] = [[] for _ in wanted]
        for layer, starts, made in self._layers(wanted):
            for ranges, parts in zip(wanted, found, strict=True):
                if layer in ranges[0]:
                    places = zip(ranges[1:], starts, strict=True)
                    cut = [slice(r.start - start, r.stop - start) for r, start in places]
                    parts.append(made[:, *cut])
        return [np.concatenate(parts) for parts in found]

    def _layers(self, wanted: list[list[range]]) -> Iterator[tuple[int, list[int], np.ndarray]]:
        """Layer by layer what lies around all that is wanted: the number of the layer, where that
        begins along the other axes, and the numbers [1, …].
        """
        around, starts = [], []
        for ranges, step, tile in zip(
            zip(*wanted, strict=True), self._steps, self._tiles, strict=True
        ):
            first, last = min(r.start for r in ranges) * step, max(r.stop for r in ranges) * step
            around.append(slice(first // tile * tile, -(-last // tile) * tile))
            starts.append(around[-1].start // step)
        for layer in range(around[0].start, around[0].stop):
            (whole,) = self.weight.read([(slice(layer, layer + 1), *around[1:])])
            made = _quantise(whole, self.inputs, self.form)[self.which]
            yield layer, starts[1:], np.asarray(made)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        (whole,) = self.read([tuple(slice(None) for _ in self.shape)])
        return whole if dtype is None else whole.astype(dtype)


_quantise = jax.jit(quantise, static_argnums=(1, 2))
