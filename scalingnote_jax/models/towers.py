"""One tower: body, pooling, projection. `TowerDef` is its functional face, for everything else.

Parameters are nested dicts: {"body": {"embedding": …, "layers": …, …}, "projection": [E, D]}, the
last only if the config asks for a projection. Not for losses, meshes or texts.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util
from jax import Array
from jax.sharding import Sharding

from scalingnote_jax.config import TowerConfig
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.bodies import Shape, make_body
from scalingnote_jax.models.checks import check_choices, check_shape, check_text
from scalingnote_jax.models.params import Tree, blueprint, orthogonal, param, values_of
from scalingnote_jax.models.pooling import pool
from scalingnote_jax.models.pretrained import first_layers, load_pretrained, shape_of

_SMALLEST_NORM = (
    1e-6  # below it a vector is not scaled up to length one: its gradient would explode
)


def normalise(x: Array) -> Array:
    """Unit vectors along the last axis, float32; zero stays zero, with a finite gradient."""
    x = x.astype(jnp.float32)
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, _SMALLEST_NORM**2))


class Tower(nnx.Module):
    """Tokens to one vector per row."""

    def __init__(self, cfg: TowerConfig, shape: Shape, *, rngs: nnx.Rngs):
        """`rngs` has the streams "params" and "projection"; the second is apart, so that the
        projection does not change with what the body draws."""
        self.pooling = cfg.pooling
        self.body = make_body(shape, rngs=rngs, remat=cfg.remat, dtype=cfg.dtype)
        self.projects = bool(cfg.projection)
        if self.projects:
            size = (shape.hidden_size, cfg.projection)
            self.projection = param(rngs.projection(), size, ("embed", "proj"), orthogonal)

    def __call__(self, tokens: Array, mask: Array, rows: Sharding | None = None) -> Array:
        """Vectors before the L2 norm.

        Args:
            tokens: [B, L] int32, padded on the right.
            mask: [B, L] bool, True for a real token.
            rows: on a mesh, where the rows of the batch lie (B a multiple of its shards). Hidden
                states are held there, which is what makes weights split over "fsdp" travel to the
                rows, and not the larger hidden states to the weights.

        Returns:
            [B, D] float32.
        """
        pooled = pool(self.body(tokens, mask, rows), mask, self.pooling)  # [B, E]
        return pooled @ self.projection[...] if self.projects else pooled


@dataclass(frozen=True)
class TowerDef:
    """Everything about a tower except its weights. Hashable: a static argument of jitted functions.

    Attributes:
        cfg: its config.
        shape: the body's shape, with the number of layers that are used.
    """

    cfg: TowerConfig
    shape: Shape

    @property
    def dim(self) -> int:
        """D, the length of the tower's vectors."""
        return self.cfg.projection or self.shape.hidden_size

    def init(self, seed: int | Array) -> Tree:
        """Random parameters, a nested dict of arrays; may be jitted."""
        return values_of(_make(self, seed))

    def abstract(self) -> tuple[Tree, Tree]:
        """Parameters as ShapeDtypeStructs, and the logical axes of each in the same structure."""
        return _blueprint(self)[1:]

    def pretrained_params(self, seed: int) -> Tree:
        """Pretrained weights where there are any, otherwise what `init(seed)` gives; numpy arrays.

        Raises:
            UserError: the weights are missing, damaged or of another model.
        """
        weights: dict[str, np.ndarray] = {}
        if self.cfg.weights != "random":
            body = load_pretrained(self.cfg.weights, self.cfg.num_layers).weights
            weights = {f"body/{path}": value for path, value in body.items()}
        paths = traverse_util.flatten_dict(self.abstract()[0], sep="/")

        def rest() -> Tree:  # under jit, so that nothing else is drawn
            drawn = traverse_util.flatten_dict(self.init(seed), sep="/")
            return {path: drawn[path] for path in paths if path not in weights}

        weights |= {path: np.asarray(value) for path, value in jax.jit(rest)().items()}
        return traverse_util.unflatten_dict({path: weights[path] for path in paths}, sep="/")

    def apply(
        self, params: Tree, tokens: Array, mask: Array, rows: Sharding | None = None
    ) -> Array:
        """Vectors before the L2 norm; pure.

        Args:
            params: as `init` makes them.
            tokens: [B, L] int32, padded on the right.
            mask: [B, L] bool, True for a real token.
            rows: on a mesh, where the rows of the batch lie (B a multiple of its shards). Hidden
                states are held there, which is what makes weights split over "fsdp" travel to the
                rows, and not the larger hidden states to the weights.

        Returns:
            [B, D] float32.
        """
        graphdef, shapes, _ = _blueprint(self)
        given, wanted = (traverse_util.flatten_dict(t, sep="/").keys() for t in (params, shapes))
        if given != wanted:  # nnx.merge goes by order: it would put weights into wrong places
            raise ValueError(f"parameters of another tower: {sorted(given ^ wanted)} differ")
        tower: Any = nnx.merge(graphdef, params)
        return tower(tokens, mask, rows)

    def num_params(self, non_embedding: bool = False) -> int:
        """Number of weights; without the embedding tables and their norm, if `non_embedding`."""
        flat = traverse_util.flatten_dict(self.abstract()[0])
        sizes = {path: math.prod(x.shape) for path, x in flat.items()}
        return sum(n for path, n in sizes.items() if not (non_embedding and "embedding" in path))


def _make(tower: TowerDef, seed: int | Array) -> Tower:
    key = jax.random.key(seed)
    streams = {name: jax.random.fold_in(key, i) for i, name in enumerate(("params", "projection"))}
    return Tower(tower.cfg, tower.shape, rngs=nnx.Rngs(**streams))


@functools.cache
def _blueprint(tower: TowerDef) -> tuple[nnx.GraphDef, Tree, Tree]:
    return blueprint(lambda: _make(tower, 0))


def tower_def(cfg: TowerConfig, where: str = "tower") -> TowerDef:
    """The definition of the tower that `cfg` asks for; reads the header of its weights.

    Args:
        cfg: the config.
        where: what the config is called in error messages ("teacher.query", "distill.student").

    Raises:
        UserError: settings that cannot work together, or weights that cannot be read.
    """
    check_choices(cfg, where)
    if cfg.weights == "random":
        if cfg.shape is None:
            raise bad_input(
                f"--{where}.shape",
                "none, with weights='random'",
                "a DecoderShape or a BertShape",
                "set it in the config file",
            )
        shape = first_layers(cfg.shape, cfg.num_layers, f"--{where}.num_layers")
    else:
        shape = shape_of(cfg.weights, cfg.num_layers)
        if cfg.shape is not None and replace(cfg.shape, num_layers=shape.num_layers) != shape:
            raise bad_input(
                f"--{where}.shape", str(cfg.shape), f"{shape}, as in {cfg.weights}", "leave it out"
            )
    check_shape(shape, where)
    check_text(cfg, shape, where)
    return TowerDef(cfg, shape)
