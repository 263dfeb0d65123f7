"""What a layer sees, in models where some layers see a window only (Gemma, ModernBERT): a bias for
its scores, and the rotation of its positions, which may be another one for such layers.

Not for the kernel of `flash.py`, which makes its masks itself.
"""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from scalingnote_jax.config import DecoderShape, ModernBertShape
from scalingnote_jax.models.layers import ops

View: TypeAlias = tuple[Array, Array, Array]  # bias, cosines, sines


def local_layers(shape: DecoderShape | ModernBertShape) -> tuple[bool, ...]:
    """Of each layer, whether it sees a window only."""
    if isinstance(shape, ModernBertShape):
        return tuple(i % shape.global_every > 0 for i in range(shape.num_layers))
    every = shape.global_every
    return tuple(
        shape.window > 0 and not (every and (i + 1) % every == 0) for i in range(shape.num_layers)
    )


def layer_views(
    local: tuple[bool, ...],
    segments: Array,
    *,
    window: int,
    causal: bool,
    turns: tuple[np.ndarray, np.ndarray],
) -> tuple[View, dict[str, Array]]:
    """The view of all layers.

    Args:
        local: as `local_layers` gives it.
        segments: [B, L], as for `ops.mask_bias`.
        window: as for `ops.window_bias`.
        causal: whether tokens see only those before them.
        turns: radians per position [K/2], of layers that see all and of local ones.

    Returns:
        the view, and nothing more, if layers are all of one kind; otherwise both kinds stacked, and
        "local", which of the two each layer takes, int32 [layers], for `stack.apply_layers`.
    """

    def view(kind: bool) -> View:
        length = segments.shape[1]
        bias = ops.mask_bias(segments, causal=causal)
        if kind and window < length:
            bias = bias + ops.window_bias(length, window, causal=causal)
        if segments.dtype == bool:
            return bias, *ops.rotation(length, turns[kind])
        return bias, *ops.rotation_at(ops.positions_of(segments), turns[kind])

    if len(set(local)) == 1:
        return view(local[0]), {}
    both = jax.tree.map(
        lambda *pair: jnp.stack(jnp.broadcast_arrays(*pair)), view(False), view(True)
    )
    return both, {"local": jnp.asarray(local, jnp.int32)}


def own_view(view: View, local: Array | None) -> View:
    """A layer's view, of what `layer_views` gives."""
    return view if local is None else jax.tree.map(lambda pair: pair[local], view)
