"""How a weight is declared, once, with its logical axes; and how a module becomes nested dicts.

Outside of `models/` parameters are nested dicts of arrays, which checkpoints, optax and shardings
take as they are. Not for what the axes mean on a mesh: that is `sharding.py`. The metadata key
`axes` is our own: flax's own sharding keys may move arrays when a module is made, and have changed
between its versions.

Logical axis names: "layers", "vocab", "embed", "heads", "kv_heads", "head", "mlp", "positions",
"types", "proj", "lora_rank", "blocks" (of inputs that share a scale), and "norm" for a vector over
E (the scale or bias of a norm, the bias of a layer's output), which is too small to be worth
splitting.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

Axes: TypeAlias = tuple[str | None, ...]
Initializer: TypeAlias = Callable[..., jax.Array]
Tree: TypeAlias = dict[str, Any]

ones = jax.nn.initializers.ones
zeros = jax.nn.initializers.zeros
embedding_normal = jax.nn.initializers.normal(0.02)  # as both architectures were first trained
orthogonal = jax.nn.initializers.orthogonal()


def fan_in_normal(fan_in: int) -> Initializer:
    """Normal of variance 1 / fan_in; told, as the first axis of a stacked weight is no input."""
    return jax.nn.initializers.normal(fan_in**-0.5)


def param(key: jax.Array, shape: tuple[int, ...], axes: Axes, init: Initializer) -> nnx.Param:
    """A float32 weight of `shape` whose axes have the logical names `axes`."""
    assert len(shape) == len(axes), f"{len(axes)} axis names for shape {shape}"
    return nnx.Param(init(key, shape, jnp.float32), axes=axes)


def linear_param(key: jax.Array, shape: tuple[int, ...], axes: Axes, inputs: int = 1) -> nnx.Param:
    """A float32 weight [layers, *in, *out] with `inputs` axes in, normal of variance 1 / fan-in."""
    weight = param(key, shape, axes, fan_in_normal(math.prod(shape[1 : 1 + inputs])))
    weight.set_metadata("inputs", inputs)
    return weight


def values_of(module: nnx.Module) -> Tree:
    """The weights of a module as a nested dict of arrays."""
    return nnx.to_pure_dict(nnx.state(module))


@dataclass(frozen=True)
class Drawn:
    """A weight that is not made yet: what `tower.init(seed)` has at `path`."""

    tower: Any  # a TowerDef
    seed: int
    path: str

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(draw({"": self})[""], dtype)


def draw(
    weights: dict[str, Drawn], shardings: dict[str, Any] | None = None
) -> dict[str, jax.Array]:
    """Makes weights under jit, so that nothing else is drawn, each part where it stays."""

    drawn: dict[str, jax.Array] = {}
    for tower, seed in dict.fromkeys((w.tower, w.seed) for w in weights.values()):
        paths = {n: w.path for n, w in weights.items() if (w.tower, w.seed) == (tower, seed)}
        places = {name: shardings[name] for name in paths} if shardings else None
        drawn |= jax.jit(partial(_init, tower, seed, paths), out_shardings=places)()
    return drawn


def _init(tower: Any, seed: int, paths: dict[str, str]) -> dict[str, jax.Array]:
    flat = traverse_util.flatten_dict(tower.init(seed), sep="/")
    return {name: flat[path] for name, path in paths.items()}


def blueprint(make: Callable[[], nnx.Module]) -> tuple[nnx.GraphDef, Tree, Tree]:
    """What `make` would build, without building it.

    Returns:
        the graph definition, which `nnx.merge` takes together with a nested dict of arrays;
        that dict, with a ShapeDtypeStruct for each array;
        the same dict, with the logical axes of each weight.
    """
    graphdef, state = nnx.split(nnx.eval_shape(make))
    axes = {path: v.get_metadata("axes") for path, v in nnx.to_flat_state(state)}
    return graphdef, nnx.to_pure_dict(state), traverse_util.unflatten_dict(axes)


Flat = dict[str, Any]


def flatten(tree: dict[str, Any]) -> Flat:
    """Nested dict → {"a/b/c": leaf}."""
    return traverse_util.flatten_dict(tree, sep="/")


def nest(flat: Flat) -> dict[str, Any]:
    """The inverse of `flatten`."""
    return traverse_util.unflatten_dict(flat, sep="/")


_HEADS = {"heads", "kv_heads", "head"}  # of one output or input, in two axes
_NO_DIMENSIONS = {"layers", "blocks", None}  # a stack of weights; scales of a quantised one


def is_matrix(axes: Axes) -> bool:
    """Whether a parameter with these logical axes maps one space to another, as linear weights and
    tables do. A norm's scale or a bias does not, in however many axes it is stored.
    """
    named = set(axes) - _NO_DIMENSIONS
    return len(named - _HEADS) + bool(named & _HEADS) >= 2
