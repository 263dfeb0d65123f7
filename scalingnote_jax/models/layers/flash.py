"""Attention that never holds its scores: JAX's Splash kernel for TPUs, where it pays.

The plain form writes and reads [B, H, L, L] numbers several times over; the kernel keeps a block of
them on the chip. For other devices, short texts and layers that differ the plain form stays
(`ops.attention`); the two agree to rounding.
"""

from __future__ import annotations

from functools import partial

import jax
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from scalingnote_jax.config import DecoderShape
from scalingnote_jax.models.layers.ops import platform_of

# Compiled for v5e, forward and backward: at 256 tokens the plain form moves 3.6 times the bytes, at
# 1,024 twelve times. Shorter texts have small scores, and fill no block.
_FROM_TOKENS = 256
_TOKENS, _HEAD = 128, 64  # the kernel's blocks are multiples of these
_LARGEST_BLOCK = 512


def pays(shape: DecoderShape, length: int, rows: Sharding | None) -> bool:
    """Whether attention over texts of `length` tokens takes the kernel, on the devices of `rows`.

    Which layer sees a window is static in the kernel, so all layers must be alike.
    """
    fits = length % _TOKENS == 0 and shape.head_dim % _HEAD == 0 and not shape.global_every
    return platform_of(rows) == "tpu" and fits and length >= _FROM_TOKENS


def attention(
    q: Array,
    k: Array,
    v: Array,
    segments: Array,
    rows: NamedSharding,
    *,
    causal: bool = True,
    window: int = 0,
    cap: float = 0.0,
    interpret: bool = False,
) -> Array:
    """Attention within each text of a row.

    Args:
        q: [B, L, H, K]; k, v: [B, L, H', K], of one dtype; heads may be split over "tensor".
        segments: [B, L] int32 or bool, as for `TowerDef.apply`.
        rows: where the rows of the batch lie.
        causal: whether a token sees only itself and those before it.
        window: as for `ops.window_bias`; 0 for no limit.
        cap: as for `ops.attention`.
        interpret: runs the kernel step by step on any device, for tests.

    Returns:
        [B, L, H, K]; what stands at padded places has no meaning.
    """
    heads = PartitionSpec(*rows.spec, None, "tensor", None)
    local = partial(_attention, causal=causal, window=window, cap=cap, interpret=interpret)
    split = jax.shard_map(
        local,
        mesh=rows.mesh,
        in_specs=(heads, heads, heads, rows.spec),
        out_specs=heads,
        check_vma=False,  # the kernel's outputs do not say over which axes they vary
    )
    return split(q, k, v, segments.astype("int32"))


def _attention(
    q: Array,
    k: Array,
    v: Array,
    segments: Array,
    *,
    causal: bool,
    window: int,
    cap: float,
    interpret: bool,
) -> Array:
    """The same on one device's rows and heads."""
    # Here, since it takes a third of a second, and most programs never need it
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel,
        splash_attention_mask,
    )

    _, length, heads, dim = q.shape
    one: splash_attention_mask.Mask
    if 0 < window < length:
        reach = (window - 1, 0) if causal else (window // 2, window // 2)
        one = splash_attention_mask.LocalMask((length, length), reach, 0)
    elif causal:
        one = splash_attention_mask.CausalMask((length, length))
    else:
        one = splash_attention_mask.FullMask((length, length))
    block = next(b for b in range(min(_LARGEST_BLOCK, length), 0, -_TOKENS) if length % b == 0)
    kernel = splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([one] * heads),
        block_sizes=splash_attention_kernel.BlockSizes(
            block_q=block,
            block_kv=block,
            block_kv_compute=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_kv_dkv_compute=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=cap or None,
        interpret=interpret,
    )

    def one_row(q: Array, k: Array, v: Array, segments: Array) -> Array:
        return kernel(q, k, v, splash_attention_kernel.SegmentIds(segments, segments))

    q, k, v = (x.swapaxes(1, 2) for x in (q * dim**-0.5, k, v))  # [B, H, L, K]
    return jax.vmap(one_row)(q, k, v, segments).swapaxes(1, 2)
