"""Applying a stack of equal layers.

Each weight of the stack has a leading axis "layers" that the layer's class declares itself; a call
of that class is one layer, on weights without the axis. Flax's own `nnx.scan` is not used: it owns
that axis, and has renamed its metadata between versions.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Sharding

# A stack this small is written out in full: without the loop's copies of what the backward pass
# needs, a step on a CPU takes a tenth less time. A larger one would take several times as long to
# compile, for less gain.
_UNROLL_UP_TO = 2
# One row has so little to compute that the loop's copies of weights would weigh in.
UNROLL_ONE_ROW_UP_TO = 12

_INPUT = "layer_input"
_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # redo all but large products
    "full": jax.checkpoint_policies.nothing_saveable,
    # as "full", and what is kept, the input of each layer, waits in the host's memory
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[_INPUT],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


def apply_layers(
    layers: Any,
    x: Array,
    *context: Any,
    each: dict[str, Array] | None = None,
    keys: Array | None = None,
    remat: str,
    rows: Sharding | None,
) -> Array:
    """`x` through all layers.

    Args:
        layers: an `AdaptableLayers` whose weights are stacked and whose call `(x, *context, **each)
            -> x` is one layer.
        x: [B, L, E].
        context: what every layer sees (masks, rotations).
        each: what differs from layer to layer, with a leading axis like the weights.
        keys: [B], from which each layer's `keys` are made, for dropout; None for none.
        remat: what the backward pass recomputes: "none", "dots", "full" or "offload".
        rows: where the rows of x lie between layers; None leaves it to the compiler. Left to it, it
            follows weights that are split over E, and moves activations instead of weights.
    """

    def hold(x: Array) -> Array:
        return x if rows is None else jax.lax.with_sharding_constraint(x, rows)

    graphdef, state = nnx.split(layers)
    weights = nnx.to_pure_dict(state)
    count = jax.tree.leaves(weights)[0].shape[0]
    each = dict(each or {})
    if keys is not None:
        fold = jax.vmap(jax.random.fold_in, (0, None))
        each["keys"] = jax.vmap(fold, (None, 0))(keys, jnp.arange(count))  # [layers, B]

    def body(x: Array, of_layer: Any) -> tuple[Array, None]:
        weights, own = of_layer
        layer = nnx.merge(graphdef, weights).on(rows)
        return hold(layer(checkpoint_name(x, _INPUT), *context, **own)), None

    unroll = count <= (UNROLL_ONE_ROW_UP_TO if x.shape[0] == 1 else _UNROLL_UP_TO)
    if remat != "none":  # in a loop there is nothing that CSE could undo, and its barriers cost
        body = jax.checkpoint(body, policy=_POLICIES[remat], prevent_cse=unroll)
    return jax.lax.scan(body, hold(x), (weights, each), unroll=unroll)[0]
