"""A check sum of each array by its values: the same on every mesh, backend and number of processes,
so that what was restored can be compared with what was saved, wherever it lies now.

Each number is mixed with its place in the array, and all are added up, in two lanes of 32 bits: one
changed number always changes both. Accelerators add up where the array lies, in one pass; on CPU
devices numpy does it, which need not be compiled. It finds damage, and tells weights apart; it is
no cryptographic hash. Not for files: `hashing.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from scalingnote_jax.models.layers.params import Flat

_LANES = (np.uint32(0x9E3779B9), np.uint32(0x7F4A7C15))  # any two numbers
_FACTORS = (np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35))  # of MurmurHash3's finaliser
_UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32}
_BLOCK = 2**16  # numbers that numpy takes at a time: what it makes of them stays in the cache


@dataclass(frozen=True)
class ValueSums:
    """Of some arrays.

    Attributes:
        sums: path → 16 hex digits.
        not_finite: paths of arrays with NaN or infinity.
    """

    sums: dict[str, str]
    not_finite: tuple[str, ...]


def value_sums(arrays: Flat) -> ValueSums:
    """The sums of arrays, by path: of any shape, number type and sharding. Every process that holds
    a part of them must ask.
    """
    if not arrays:
        return ValueSums({}, ())
    on_cpu = next(iter(next(iter(arrays.values())).devices())).platform == "cpu"
    rows = _by_numpy(arrays) if on_cpu else _by_devices(arrays)
    found = dict(zip(arrays, rows, strict=True))
    return ValueSums(
        {path: f"{row[0] % 2**32:08x}{row[1] % 2**32:08x}" for path, row in found.items()},
        tuple(path for path, row in found.items() if row[2]),
    )


def _by_devices(arrays: Flat) -> np.ndarray:
    """[arrays, 3]: two lanes, and the count of numbers that are not finite."""
    return np.array(jax.device_get([_sum_of(x) for x in arrays.values()]))


def _sum_of(x: jax.Array) -> jax.Array:
    lies = x.sharding
    whole = NamedSharding(lies.mesh, PartitionSpec()) if isinstance(lies, NamedSharding) else None
    summed: jax.Array = jax.jit(sums_on_device, out_shardings=whole)(x)
    return summed


def sums_on_device(x: jax.Array) -> jax.Array:
    """uint32 [3], as a row of `value_sums` before it is written in hex."""
    bits, place = _bits(x, jax.lax.bitcast_convert_type), jnp.zeros((), jnp.uint32)
    for axis, size in enumerate(x.shape):
        place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    lanes = [jnp.sum(_mix(bits + _mix(place + lane)), dtype=jnp.uint32) for lane in _LANES]
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    odd = jnp.sum(~jnp.isfinite(x), dtype=jnp.uint32) if floating else jnp.uint32(0)
    return jnp.stack([*lanes, odd])


def _by_numpy(arrays: Flat) -> np.ndarray:
    """As `_by_devices`; each process adds up the parts that it holds the first copy of."""
    own = np.array([_own_parts(x) for x in arrays.values()], np.uint64)
    if jax.process_count() == 1:
        return own
    from jax.experimental import multihost_utils

    halves = np.stack([own >> np.uint64(32), own & np.uint64(2**32 - 1)]).astype(np.uint32)
    high, low = multihost_utils.process_allgather(halves).astype(np.uint64).sum(axis=0)
    return (high << np.uint64(32)) + low


def _own_parts(x: jax.Array) -> list[int]:
    total = [0, 0, 0]
    for shard in x.addressable_shards:
        if shard.replica_id == 0:
            starts = [s.indices(n)[0] for s, n in zip(shard.index, x.shape, strict=True)]
            part = sums_of_part(np.asarray(shard.data), x.shape, starts)
            total = [(a + b) % 2**32 for a, b in zip(total, part, strict=True)]
    return total


def sums_of_part(part: np.ndarray, shape: tuple[int, ...], starts: list[int]) -> list[int]:
    """As `sums_on_device`, of the part of an array of that shape that begins at `starts`."""
    split = next((k for k in range(part.ndim) if math.prod(part.shape[k:]) <= _BLOCK), part.ndim)
    inner = _places(part.shape[split:], shape[split:], starts[split:])
    outer = _places(part.shape[:split], shape[:split], starts[:split])
    outer = outer * np.uint32(math.prod(shape[split:]) % 2**32)
    rows = np.ascontiguousarray(part).reshape(len(outer), len(inner))
    total, step = [0, 0, 0], max(1, _BLOCK // max(1, len(inner)))
    floating = jnp.issubdtype(part.dtype, jnp.floating)
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        bits = _bits(block, lambda x, kind: x.view(kind))
        place = outer[start : start + step, None] + inner
        for at, lane in enumerate(_LANES):
            total[at] += int(_mix(bits + _mix(place + lane)).sum(dtype=np.uint64))
        total[2] += int(np.count_nonzero(~np.isfinite(block))) if floating else 0
    return [number % 2**32 for number in total]


def _places(part: tuple[int, ...], shape: tuple[int, ...], starts: list[int]) -> np.ndarray:
    """uint32 [product of part], the place of each number in an array of that shape."""
    places = np.zeros(1, np.uint32)
    for size, whole, start in zip(part, shape, starts, strict=True):
        along = np.arange(start, start + size, dtype=np.uint32)
        places = (places[:, None] * np.uint32(whole) + along).ravel()
    return places


def _bits(x: Any, view: Any) -> Any:
    """uint32, as many as x has numbers; different ones for different numbers."""
    if jnp.issubdtype(x.dtype, jnp.floating):
        return view(x, _UNSIGNED[jnp.finfo(x.dtype).bits]).astype(np.uint32)
    return x if x.dtype == np.uint32 else x.astype(np.int32).astype(np.uint32)


def _mix(x: Any) -> Any:
    """A bijection of 32 bits."""
    x = (x ^ (x >> np.uint32(16))) * _FACTORS[0]
    x = (x ^ (x >> np.uint32(13))) * _FACTORS[1]
    return x ^ (x >> np.uint32(16))
