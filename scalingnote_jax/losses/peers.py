"""The devices that share the rows of a loss, and what they tell each other. With one device the
same calls do nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from scalingnote_jax.devices import mesh as mesh_lib


@dataclass(frozen=True)
class Peers:
    """The mesh axes that split the rows, and their mesh; neither on one device."""

    mesh: Mesh | None
    axes: tuple[str, ...]

    @classmethod
    def of(cls, mesh: Mesh | None, rows: int) -> Peers:
        """Those of a mesh for so many rows. `tensor` only has copies of the rows: where the number
        allows, its devices share the work too.
        """
        if mesh is None or mesh.size == 1:
            return cls(None, ())
        return cls(mesh, mesh_lib.BATCH_AXES if rows % mesh.size else mesh_lib.AXES)

    @property
    def count(self) -> int:
        """Parts that the rows are split into."""
        return math.prod(self.mesh.shape[axis] for axis in self.axes) if self.mesh else 1

    def share_rows(self, f: Callable[..., Any], inputs: str, outputs: str) -> Callable[..., Any]:
        """`f` on each device's rows. One letter for each argument and result: "r", its rows are
        split; "-", each device has all of it.
        """
        if self.mesh is None:
            return f
        spec = {"r": PartitionSpec(self.axes), "-": PartitionSpec()}
        return jax.shard_map(
            f,
            mesh=self.mesh,
            in_specs=tuple(spec[letter] for letter in inputs),
            out_specs=tuple(spec[letter] for letter in outputs),
            check_vma=False,  # "-" results are sums over all devices: equal, but not provably so
        )

    def gather(self, x: jax.Array, axis: int) -> jax.Array:
        """The devices' parts side by side, in the order of the mesh."""
        return lax.all_gather(x, self.axes, axis=axis, tiled=True) if self.mesh else x

    def scatter_sum(self, x: jax.Array, axis: int) -> jax.Array:
        """The sum of the devices' x, of which each keeps its part: the transpose of `gather`."""
        if not self.mesh:
            return x
        return lax.psum_scatter(x, self.axes, scatter_dimension=axis, tiled=True)

    def exchange(self, x: jax.Array, axis: int) -> jax.Array:
        """The device's own part of every device's x, side by side."""
        return lax.all_to_all(x, self.axes, axis, axis, tiled=True) if self.mesh else x

    def sum(self, x: Any) -> Any:
        """The sum over devices, of each leaf."""
        return lax.psum(x, self.axes) if self.mesh else x
