"""The functional face of a tower (`tower.py`): its definition, and what is done with its weights.

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

from scalingnote_jax.config import LoraConfig, TowerConfig
from scalingnote_jax.config.rules.tower_rules import check_fit, check_tower
from scalingnote_jax.config.towers import Shape
from scalingnote_jax.models.checks import check_lora
from scalingnote_jax.models.layers.params import (
    Drawn,
    Tree,
    blueprint,
    draw,
    values_of,
)
from scalingnote_jax.models.lora import FOLDER, SCALES, linear_weights, merge
from scalingnote_jax.models.quantised import Form
from scalingnote_jax.models.tower_module import Tower
from scalingnote_jax.models.weights.beside.completion import check_settings, folder_projection
from scalingnote_jax.models.weights.pretrained import first_layers, open_pretrained, shape_of
from scalingnote_jax.models.weights.storage import store

# Below it a vector is not scaled up to length one: its gradient would explode
_SMALLEST_NORM = 1e-6


def normalise(x: Array) -> Array:
    """Unit vectors along the last axis, float32; zero stays zero, with a finite gradient."""
    x = x.astype(jnp.float32)
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, _SMALLEST_NORM**2))


@dataclass(frozen=True)
class TowerDef:
    """Everything about a tower except its weights. Hashable: a static argument of jitted functions.

    Attributes:
        cfg: its config.
        shape: the body's shape, with the number of layers that are used.
        integers: int8 weights are multiplied with inputs in int8: for use, not for training.
    """

    cfg: TowerConfig
    shape: Shape
    integers: bool = False

    @property
    def dim(self) -> int:
        """D, the length of the tower's vectors."""
        return self.cfg.projection or self.shape.hidden_size

    @property
    def freeze(self) -> tuple[str, ...]:
        """Regular expressions for the paths of what is not trained: what the config says, and of a
        tower with adapters all else in its body.
        """
        return self.cfg.freeze + ((f"body/(?!.*{FOLDER}/)",) if self.cfg.lora.rank else ())

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
        flat = traverse_util.flatten_dict(self.stored_params(seed), sep="/")
        flat |= draw({path: x for path, x in flat.items() if isinstance(x, Drawn)})
        return traverse_util.unflatten_dict({p: np.asarray(x) for p, x in flat.items()}, sep="/")

    def stored_params(self, seed: int, given: dict[str, Any] | None = None) -> Tree:
        """As `pretrained_params`, with a `StoredWeight` or `StoredPart` for what is still on disk,
        `Drawn` for what is not drawn yet: `sharding.place` makes of each what this process holds.

        Args:
            seed: of what is drawn.
            given: path → array, as this tower stores it, in place of pretrained weights.
        """
        weights = given or {}
        if given is None and self.cfg.weights != "random":
            weights = self._on_disk()
        paths = traverse_util.flatten_dict(self.abstract()[0], sep="/")
        flat = {p: weights[p] if p in weights else Drawn(self, seed, p) for p in paths}
        return traverse_util.unflatten_dict(flat, sep="/")

    def _on_disk(self) -> dict[str, Any]:
        """What the weights of the config hold, path → as `stored_params`."""
        cfg, shape = self.cfg, self.shape
        body = open_pretrained(cfg.weights, cfg.num_layers, shape, cfg.bidirectional, cfg.body_only)
        whole = {f"body/{path}": value for path, value in body.weights.items()}
        weights = store(whole, shape, cfg.lora.base_dtype)
        if body.settings is not None:
            check_settings(cfg, body.settings, "tower")
            if body.settings.dim:
                given = body.settings, shape.hidden_size, cfg.weights
                weights["projection"] = folder_projection(*given)
        return weights

    def apply(
        self,
        params: Tree,
        tokens: Array,
        segments: Array,
        rows: Sharding | None = None,
        texts_per_row: int = 0,
        keys: Array | None = None,
        beginnings: Array | None = None,
    ) -> Array:
        """Vectors before the L2 norm; pure.

        Args:
            params: as `init` makes them.
            tokens: [B, L] int32, padded on the right.
            segments: [B, L]. Bool, True for a real token, where each row is one text. Int32 for
                packed rows: the number of the text in its row, from 1, and 0 for padding; no text
                sees another, and positions start anew.
            rows: on a mesh, where the rows of the batch lie (B a multiple of its shards). Hidden
                states are held there, which is what makes weights split over "fsdp" travel to the
                rows, and not the larger hidden states to the weights.
            texts_per_row: S, the most texts in a packed row; 0 where each row is one text.
            keys: [B], a key for each row's dropout, in training; None for none.
            beginnings: [B, L], as `segments`, of the first tokens of each text only; of a causal
                tower. Each text then gets a second vector, which is that of its beginning alone; a
                text without one gets its own twice.

        Returns:
            [B, D] float32, or [B, S, D] of packed rows (without meaning where there is no text);
            with beginnings [B, 2, D] or [B, S, 2, D].
        """
        tower = self._with(params)
        return tower(tokens, segments, rows, texts_per_row, keys, beginnings)

    def log_likelihood(
        self,
        params: Tree,
        vectors: Array,
        tokens: Array,
        mask: Array,
        rows: Sharding | None = None,
        keys: Array | None = None,
    ) -> Array:
        """Log-probability of each text as what follows a vector, mean over its tokens; of a causal
        decoder.

        Args:
            params, rows, keys: as for `apply`.
            vectors: [B, D], as `apply` gives them.
            tokens, mask: [B, L], in the tower's own tokens.

        Returns:
            [B] float32.
        """
        return self._with(params).log_likelihood(vectors, tokens, mask, rows, keys)

    def _with(self, params: Tree) -> Any:
        graphdef, shapes, _ = _blueprint(self)
        given, wanted = (traverse_util.flatten_dict(t, sep="/").keys() for t in (params, shapes))
        if given != wanted:  # nnx.merge goes by order: it would put weights into wrong places
            raise ValueError(f"parameters of another tower: {sorted(given ^ wanted)} differ")
        return nnx.merge(graphdef, params)

    def merged(self, params: Tree) -> tuple[TowerDef, Tree]:
        """The tower without adapters, which are in its weights, and without codes; float32."""
        if self.cfg.lora == LoraConfig():
            return self, params
        around = {name: part for name, part in params["body"].items() if name != "layers"}
        body = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), around)
        if layers := params["body"].get("layers"):
            body["layers"] = merge(layers, self.cfg.lora)
        plain = replace(self.cfg, lora=LoraConfig())
        return replace(self, cfg=plain), {**params, "body": body}

    def in_use(self, params: Tree) -> Tree:
        """The weights for use, not for training: linear ones in the type that they are multiplied
        in, to which every product would cast them again. Vectors stay the same.
        """
        layers = params["body"].get("layers")
        if self.cfg.dtype == "float32" or not layers:
            return params
        names = linear_weights(self._with(params).body.layers)
        cast = {
            name: weight.astype(self.cfg.dtype)
            for name, weight in layers.items()
            if name in names and weight.dtype == jnp.float32
        }
        return {**params, "body": {**params["body"], "layers": {**layers, **cast}}}

    def quantised(self, params: Tree, form: Form) -> tuple[TowerDef, Tree]:
        """The same tower without adapters and with quantised weights, for use and not for training;
        tables and norms are in bfloat16. With "int8" products are of integers (`integers`). May be
        jitted.
        """
        plain, params = self.merged(params)
        cfg = replace(plain.cfg, lora=LoraConfig(base_dtype=form))
        tower = replace(plain, cfg=cfg, integers=form == "int8")
        flat = store(traverse_util.flatten_dict(params, sep="/"), self.shape, form)
        return tower, traverse_util.unflatten_dict(flat, sep="/")

    def num_params(self, non_embedding: bool = False) -> int:
        """Number of weights; without the embedding tables and their norm, if `non_embedding`. The
        scales of quantised weights are part of how those are written, and not counted.
        """
        flat = traverse_util.flatten_dict(self.abstract()[0])
        sizes = {path: math.prod(x.shape) for path, x in flat.items() if SCALES not in path}
        return sum(n for path, n in sizes.items() if not (non_embedding and "embedding" in path))


_STREAMS = ("params", "projection", "lora")


def _make(tower: TowerDef, seed: int | Array) -> Tower:
    key = jax.random.key(seed)
    streams = {name: jax.random.fold_in(key, i) for i, name in enumerate(_STREAMS)}
    return Tower(tower.cfg, tower.shape, rngs=nnx.Rngs(**streams), integers=tower.integers)


@functools.cache
def _blueprint(tower: TowerDef) -> tuple[nnx.GraphDef, Tree, Tree]:
    return blueprint(lambda: _make(tower, 0))


def tower_def(cfg: TowerConfig, where: str = "tower") -> TowerDef:
    """The definition of the tower that `cfg` asks for; reads the header of its weights, unless the
    config has their shape.

    Args:
        cfg: the config.
        where: what the config is called in error messages ("teacher.query", "distill.student").

    Raises:
        UserError: settings that cannot work together, or weights that cannot be read.
    """
    check_tower(cfg, where)
    if cfg.shape is not None:
        shape = first_layers(cfg.shape, cfg.num_layers, f"--{where}.num_layers")
    else:
        shape = shape_of(cfg.weights, cfg.num_layers, cfg.bidirectional)
        check_fit(cfg, shape, where)
    check_lora(cfg, shape, where)
    return TowerDef(cfg, shape)
