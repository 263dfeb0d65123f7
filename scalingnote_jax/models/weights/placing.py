"""Weights → arrays on the mesh: each process reads, copies and draws only what its devices hold."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from scalingnote_jax.models.layers.params import Drawn, draw


def place(params: dict[str, Any], shardings: dict[str, NamedSharding]) -> dict[str, jax.Array]:
    """Parameters → global arrays: arrays, weights still on disk (`pretrained.py`), weights not
    drawn yet (`models/layers/params.py`). A process reads, copies and draws only the parts that its
    devices hold, one parameter after the other.
    """
    drawn = {path: x for path, x in params.items() if isinstance(x, Drawn)}
    placed = draw(drawn, {path: shardings[path] for path in drawn})

    def put(x: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(x, jax.Array):  # moves between the devices
            return jax.device_put(x, sharding)
        if not hasattr(x, "read"):
            return jax.make_array_from_callback(x.shape, sharding, lambda i: np.asarray(x[i]))
        places = sharding.addressable_devices_indices_map(x.shape)
        distinct = {str(index): index for index in places.values()}
        parts = dict(zip(distinct, x.read(list(distinct.values())), strict=True))
        on_devices = [jax.device_put(parts[str(i)], device) for device, i in places.items()]
        # A copy to a device runs on while its source stays in memory: wait for each, or the sources
        # of several parameters pile up
        jax.block_until_ready(on_devices)
        return jax.make_array_from_single_device_arrays(x.shape, sharding, on_devices)

    rest = {path: put(x, shardings[path]) for path, x in params.items() if path not in drawn}
    return {path: (placed | rest)[path] for path in params}
