"""Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685): beside a weight W that stays as it is, two
small ones A and B that are trained, x W + alpha / rank · (x A) B. B starts at zero, so a tower with
new adapters is the tower without.

The smallest form that goes with stacked layers. Not for what is trained: `TowerDef.freeze` says it.

Shapes: n layers, r rank; *in and *out are the axes of a weight's input and output.
"""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from scalingnote_jax.config import LoraConfig
from scalingnote_jax.models import ops
from scalingnote_jax.models.params import Tree, fan_in_normal, param, zeros

FOLDER = "lora"  # under the layers, in the paths of adapters


class Adapter(nnx.Module):
    """A and B of one stacked weight."""

    def __init__(self, weight: nnx.Param, cfg: LoraConfig, rngs: nnx.Rngs):
        inputs, axes = weight.get_metadata("inputs"), weight.get_metadata("axes")
        shape, middle, rank, key = weight.shape, 1 + inputs, cfg.rank, rngs.lora
        fan_in = int(np.prod(shape[1:middle]))
        a_shape, a_axes = (*shape[:middle], rank), (*axes[:middle], "lora_rank")
        b_shape, b_axes = (shape[0], rank, *shape[middle:]), (axes[0], "lora_rank", *axes[middle:])
        self.a = param(key(), a_shape, a_axes, fan_in_normal(fan_in))
        self.b = param(key(), b_shape, b_axes, zeros)
        self.inputs, self.scale = inputs, cfg.alpha / rank

    def __call__(self, x: Array, dtype: DTypeLike) -> Array:
        """[..., *in] → [..., *out], on weights of one layer."""
        low = ops.linear(x, self.a[...], dtype, self.inputs)  # [..., r]
        return self.scale * ops.linear(low, self.b[...], dtype)


class AdaptableLayers(nnx.Module):
    """Stacked layers whose linear weights may have adapters beside them."""

    def __init__(self, dtype: DTypeLike):
        self.dtype: DTypeLike = dtype
        self.lora: Any = nnx.Dict()

    def linear(self, name: str, x: Array) -> Array:
        """`x` [..., *in] times the weight `name` of one layer, adapter included; float32."""
        weight: Any = getattr(self, name)
        out = ops.linear(x, weight[...], self.dtype, weight.get_metadata("inputs"))
        return out + self.lora[name](x, self.dtype) if name in self.lora else out


def adapt(layers: AdaptableLayers, cfg: LoraConfig, rngs: nnx.Rngs) -> None:
    """Puts adapters beside the linear weights that `cfg.modules` finds."""
    for name, weight in sorted(vars(layers).items()):
        linear = isinstance(weight, nnx.Param) and weight.get_metadata("inputs", 0)
        if linear and any(re.search(pattern, f"layers/{name}") for pattern in cfg.modules):
            layers.lora[name] = Adapter(weight, cfg, rngs)


def store_in(module: nnx.Module, dtype: DTypeLike) -> None:
    """Casts all weights of `module`."""
    nnx.update(module, jax.tree.map(lambda x: x.astype(dtype), nnx.state(module)))


def merge(layers: Tree, cfg: LoraConfig) -> Tree:
    """The parameters of adapted layers as those of plain ones, W + alpha / rank · A B; float32.

    Args:
        layers: {"q": [n, *in, *out], …, "lora": {"q": {"a": [n, *in, r], "b": [n, r, *out]}, …}}.
    """
    merged = {name: jnp.asarray(w, jnp.float32) for name, w in layers.items() if name != FOLDER}
    for name, adapter in layers[FOLDER].items():
        product = jax.vmap(lambda a, b: jnp.tensordot(a, b, axes=1))(adapter["a"], adapter["b"])
        merged[name] = merged[name] + cfg.alpha / cfg.rank * product
    return merged
