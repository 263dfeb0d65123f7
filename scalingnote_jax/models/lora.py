"""Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685): beside a weight W that stays as it is, two
small ones A and B that are trained, x W + alpha / rank · (x A) B. B starts at zero, so a tower with
new adapters is the tower without.

The smallest form that goes with stacked layers. W may be stored in fewer bits than it is multiplied
in (QLoRA, arXiv 2305.14314): in bfloat16, or as `quantised.py` does. Not for what is trained:
`TowerDef.freeze` says it.

Shapes: n layers, r rank; *in and *out are the axes of a weight's input and output.
"""

from __future__ import annotations

import re
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import NamedSharding, Sharding
from jax.typing import DTypeLike

from scalingnote_jax.config import LoraConfig
from scalingnote_jax.devices.sharding import partition_spec
from scalingnote_jax.models import quantised
from scalingnote_jax.models.layers import ops
from scalingnote_jax.models.layers.params import Tree, fan_in_normal, param, zeros

FOLDER = "lora"  # under the layers, in the paths of adapters
SCALES = "scale"  # under the layers, in the paths of the scales of quantised weights


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

    def __call__(self, x: Array, dtype: DTypeLike, platform: str) -> Array:
        """[..., *in] → [..., *out], on weights of one layer."""
        low = ops.linear(x, self.a[...], dtype, self.inputs, platform=platform)  # [..., r]
        return self.scale * ops.linear(low, self.b[...], dtype, platform=platform)


class AdaptableLayers(nnx.Module):
    """Stacked layers whose linear weights may be quantised, and may have adapters beside them."""

    def __init__(self, dtype: DTypeLike):
        self.dtype: DTypeLike = dtype
        self.lora: Any = nnx.Dict()
        self.scale: Any = nnx.Dict()
        self.rows: Any = None
        self.integers = False  # multiplies int8 codes as such: for use, not for training

    def on(self, rows: Sharding | None) -> Self:
        """The same layers, told where the rows of their input lie."""
        self.rows = rows
        return self

    def linear(self, name: str, x: Array) -> Array:
        """`x` [..., *in] times the weight `name` of one layer, adapter included; float32."""
        weight: Any = getattr(self, name)
        inputs, platform = weight.get_metadata("inputs"), ops.platform_of(self.rows)
        if name in self.scale and self.integers:
            out = quantised.integer_linear(x, weight[...], self.scale[name][...], inputs)
        elif name in self.scale:
            scale, places = self.scale[name], None
            if isinstance(self.rows, NamedSharding):
                places = tuple(_gathered(name, w, self.rows.mesh) for w in (weight, scale))
            out = quantised.linear(
                x.astype(self.dtype), weight[...], scale[...], self.dtype, inputs, places, platform
            )
        else:
            out = ops.linear(x, weight[...], self.dtype, inputs, platform=platform)
        return out + self.lora[name](x, self.dtype, platform) if name in self.lora else out


def _gathered(name: str, weight: Any, mesh: Any) -> NamedSharding:
    """Where a weight of one layer lies once it is no longer split over "fsdp"."""
    axes = weight.get_metadata("axes")[1:]
    return NamedSharding(mesh, partition_spec(name, weight.shape, axes, {**mesh.shape, "fsdp": 1}))


def linear_weights(layers: AdaptableLayers) -> dict[str, nnx.Param]:
    """The stacked linear weights, by name."""
    return {
        name: weight
        for name, weight in sorted(vars(layers).items())
        if isinstance(weight, nnx.Param) and weight.get_metadata("inputs", 0)
    }


def adapt(layers: AdaptableLayers, cfg: LoraConfig, rngs: nnx.Rngs) -> None:
    """Puts adapters beside the linear weights that `cfg.modules` finds."""
    for name, weight in linear_weights(layers).items():
        if any(re.search(pattern, f"layers/{name}") for pattern in cfg.modules):
            layers.lora[name] = Adapter(weight, cfg, rngs)


def store_in(body: Any, base_dtype: str) -> None:
    """Stores all weights of a body in `base_dtype`; if that is a quantised form, its linear weights
    so, and what else there is in bfloat16.
    """
    whole = {name: w[...] for name, w in linear_weights(body.layers).items()}
    dtype = quantised.dtype_of_rest(base_dtype)
    nnx.update(body, jax.tree.map(lambda x: x.astype(dtype), nnx.state(body)))
    if not quantised.is_form(base_dtype):
        return
    for name, weight in linear_weights(body.layers).items():
        inputs, axes = input_axes(weight.get_metadata("inputs")), weight.get_metadata("axes")
        codes, scale = quantised.quantise(whole[name], inputs, base_dtype)
        weight.set_value(codes)
        scale_axes = quantised.scale_axes(axes, whole[name].shape, scale.shape)
        body.layers.scale[name] = nnx.Param(scale, axes=scale_axes)


def input_axes(inputs: int) -> tuple[int, ...]:
    """The numbers of the `inputs` axes of a stacked weight [n, *in, *out]."""
    return tuple(range(1, 1 + inputs))


def merge(layers: Tree, cfg: LoraConfig) -> Tree:
    """The parameters of adapted layers as those of plain ones, W + alpha / rank · A B; float32.

    Args:
        layers: {"q": [n, *in, *out], …, "lora": {"q": {"a": [n, *in, r], "b": [n, r, *out]}, …}},
            and of quantised ones {…, "scale": {"q": …, …}}.
    """
    scales, adapters = layers.get(SCALES, {}), layers.get(FOLDER, {})
    merged = {
        name: quantised.dequantise(w, scales[name])
        if name in scales
        else jnp.asarray(w, jnp.float32)
        for name, w in layers.items()
        if name not in (FOLDER, SCALES)
    }
    for name, adapter in adapters.items():
        product = jax.vmap(lambda a, b: jnp.tensordot(a, b, axes=1))(adapter["a"], adapter["b"])
        merged[name] = merged[name] + cfg.alpha / cfg.rank * product
    return merged
