"""The table from logical axes to the mesh, and the errors that stand where a silent copy would."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from scalingnote_jax.config import MeshConfig
from scalingnote_jax.devices.mesh import batch_shards, make_mesh
from scalingnote_jax.devices.sharding import partition_spec, shardings_of
from scalingnote_jax.errors import UserError
from scalingnote_jax.models.weights.placing import place

MESH_SHAPE = {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize(
    ("shape", "axes", "spec"),
    [
        (
            (4, 64, 8, 16),
            ("layers", "embed", "heads", "head"),
            PartitionSpec(None, "fsdp", "tensor"),
        ),
        ((512, 64), ("vocab", "embed"), PartitionSpec("tensor", "fsdp")),
        ((4, 64), ("layers", "norm"), PartitionSpec()),
        ((), (), PartitionSpec()),
    ],
)
def test_specs(shape, axes, spec):
    assert partition_spec("w", shape, axes, MESH_SHAPE) == spec


def test_an_axis_that_does_not_divide_is_an_error_with_the_fix():
    with pytest.raises(UserError) as e:
        partition_spec(
            "query/body/layers/k",
            (4, 64, 3, 16),
            ("layers", "embed", "kv_heads", "head"),
            MESH_SHAPE,
        )
    for part in ("query/body/layers/k", "kv_heads", "(4, 64, 3, 16)", "--mesh.tensor"):
        assert part in str(e.value)


def test_an_unknown_axis_is_an_error():
    with pytest.raises(UserError, match="'colour'"):
        partition_spec("w", (4,), ("colour",), MESH_SHAPE)


def test_an_axis_split_one_way_never_fails():
    assert (
        partition_spec("w", (3, 5), ("heads", "embed"), {"data": 8, "fsdp": 1, "tensor": 1})
        == PartitionSpec()
    )


def test_mesh_sizes():
    assert dict(make_mesh(MeshConfig(data=-1, tensor=2)).shape) == {
        "slice": 1,
        "data": 4,
        "fsdp": 1,
        "tensor": 2,
    }
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    assert batch_shards(mesh) == 8
    for wrong in (
        MeshConfig(data=3),
        MeshConfig(data=-1, fsdp=-1),
        MeshConfig(data=-1, tensor=3),
        MeshConfig(data=0),
    ):
        with pytest.raises(UserError, match="--mesh"):
            make_mesh(wrong)


def test_place_keeps_values_and_splits_them():
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    weight = np.arange(64, dtype=np.float32).reshape(8, 8)
    shardings = shardings_of({"w": weight}, {"w": ("vocab", "embed")}, mesh)
    placed = place({"w": weight}, shardings)["w"]
    np.testing.assert_array_equal(np.asarray(placed), weight)
    assert {shard.data.shape for shard in placed.addressable_shards} == {(4, 2)}
    assert len(jax.devices()) == 8
