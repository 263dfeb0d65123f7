"""From the logical axes that each weight declares to the mesh: one table, and an error instead of a
silent copy.

A weight names its axes where it is made (`models/layers/params.py`); `RULES` says which mesh axis
splits which logical axis. An axis that is not in the table, or that its mesh axis does not divide,
is an error with the fix: silent replication would surface as an out-of-memory with no cause shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from scalingnote_jax.errors import bad_input

if TYPE_CHECKING:
    import optax

RULES: dict[str, str | None] = {
    "layers": None,  # scanned over: splitting it would gather a layer per step
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head": None,
    "mlp": "tensor",
    "proj": None,  # D of the projection: small, and read whole by the loss
    "lora_rank": None,
    "blocks": None,  # of 64 inputs with one scale: a device's part of the inputs may end inside one
    "norm": None,  # one-dimensional scales and biases
    "positions": None,
    "types": None,
}


def partition_spec(
    name: str, shape: tuple[int, ...], axes: tuple[str | None, ...], mesh_shape: dict[str, int]
) -> PartitionSpec:
    """The mesh axes that split one tensor.

    Args:
        name: the tensor's path, for the error.
        shape: its shape.
        axes: one logical axis (or None, whole) per dimension.
        mesh_shape: mesh axis → size.

    Raises:
        UserError: an axis that is not in `RULES`, or does not divide.
    """
    assert len(axes) == len(shape), f"{name}: {len(axes)} axes for shape {shape}"
    spec: list[str | None] = []
    for axis, size in zip(axes, shape, strict=True):
        if axis is not None and axis not in RULES:
            raise bad_input(
                name,
                f"logical axis {axis!r} of shape {shape}",
                f"one of {sorted(RULES)}",
                "add it to sharding.RULES",
            )
        target = RULES[axis] if axis is not None else None
        parts = mesh_shape.get(target, 1) if target else 1
        if size % parts:
            raise bad_input(
                name,
                f"axis {axis!r} of shape {shape}: {target!r} cannot split {size} into {parts}",
                f"a divisor of {size}",
                f"set --mesh.{target} to one",
            )
        spec.append(target if parts > 1 else None)
    used = [s for s in spec if s]
    assert len(used) == len(set(used)), f"{name}: mesh axis used twice in {spec}"
    while spec and spec[-1] is None:
        spec.pop()
    return PartitionSpec(*spec)


def shardings_of(
    shapes: dict[str, Any], axes: dict[str, tuple[str | None, ...]], mesh: Mesh
) -> dict[str, NamedSharding]:
    """The sharding of each tensor of a flat dict {path: array or ShapeDtypeStruct}."""
    sizes = dict(mesh.shape)
    return {
        name: NamedSharding(mesh, partition_spec(name, x.shape, axes[name], sizes))
        for name, x in shapes.items()
    }


def optimizer_shardings(
    tx: optax.GradientTransformation, opt_state: Any, params: dict[str, NamedSharding], mesh: Mesh
) -> Any:
    """Moments lie where their parameter lies; counters are copied."""
    whole = NamedSharding(mesh, PartitionSpec())

    def as_parameter(_: Any, sharding: NamedSharding) -> NamedSharding:
        return sharding

    import optax  # heavy, and only training needs it

    return optax.tree_utils.tree_map_params(
        tx, as_parameter, opt_state, params, transform_non_params=lambda _: whole
    )


def bytes_per_device(x: Any, sharding: NamedSharding) -> int:
    """Bytes of the largest shard."""
    # NumPy takes 4-bit numbers for bytes; XLA packs them.
    bits = jax.dtypes.itemsize_bits(x.dtype)
    return int(np.prod(sharding.shard_shape(x.shape), dtype=np.int64)) * bits // 8


def total_bytes_per_device(tree: Any, shardings: Any) -> int:
    """Bytes of all leaves of `tree` on one device."""
    sizes = jax.tree.map(bytes_per_device, tree, shardings)
    return sum(jax.tree.leaves(sizes))
