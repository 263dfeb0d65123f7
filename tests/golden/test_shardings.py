"""Where everything lies on a pod, written down: a change of sharding is a diff that one can read.

One file per config and mesh, with every parameter, optimizer slot and main activation: its shape,
how it is split, and MiB per device. No device is needed: only the sizes of the mesh. After a change
that is meant:

    GOLDEN_UPDATE=1 python -m pytest tests/golden
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, NamedSharding

from scalingnote_jax.config import Config, MeshConfig
from scalingnote_jax.config.load import load_config
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.devices.sharding import bytes_per_device
from scalingnote_jax.models.layers.params import flatten
from scalingnote_jax.models.pair import Towers
from scalingnote_jax.train.prepare import Prepared, make_schedule

FOLDER = Path(__file__).parent
# (config, mesh, chips): v5e and v6e 16x16 have 256 chips, v5p 4x4x8 has 128.
CASES = [
    ("qwen2_5_7b", MeshConfig(data=-1, fsdp=32), 256),
    ("qwen2_5_7b", MeshConfig(data=-1, fsdp=64), 128),
    ("qwen2_5_7b", MeshConfig(data=1, fsdp=-1, tensor=4), 256),
    ("qwen2_5_7b", MeshConfig(slice=2, data=-1, fsdp=32), 512),
    ("qwen3_0_6b", MeshConfig(data=-1, fsdp=16), 256),
    ("gemma3_270m", MeshConfig(data=-1, fsdp=8), 64),
    ("smollm2_135m", MeshConfig(data=-1, fsdp=8), 64),
]


def prepare(config: Config, mesh: Any) -> Prepared:
    towers = Towers(config.teacher)
    freeze = towers.freeze(config.train.learn_temperature)
    schedule = make_schedule("train", config.train, 100)
    return Prepared("teacher", *towers.abstract(), freeze, config.train, schedule, mesh)


def rows(prefix: str, tree: Any, shardings: Any) -> list[tuple[str, Any, NamedSharding]]:
    """(path, shape, sharding) of each leaf of a state's part."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    placed = jax.tree.leaves(shardings)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return [
        (f"{prefix}/{name}", x, s) for name, (_, x), s in zip(names, leaves, placed, strict=True)
    ]


def activations(config: Config, mesh: Any) -> list[tuple[str, Any, NamedSharding]]:
    """What a step holds where it says so: batches, and hidden states between layers."""
    size, group = config.train.batch_size, 1 + config.train.negatives_per_query
    towers, spread, result = Towers(config.teacher), mesh_lib.batch_sharding(mesh), []
    for side, tower, count in (
        ("query", towers.query, size),
        ("doc", towers.doc, size * group),
    ):
        length, hidden = tower.cfg.text.max_tokens, tower.shape.hidden_size
        for name, shape, dtype in (
            ("tokens", (count, length), np.int32),
            ("hidden", (count, length, hidden), np.float32),
        ):
            result.append(
                (f"activations/{side}/{name}", jax.ShapeDtypeStruct(shape, dtype), spread)
            )
    return result


def table(config: Config, mesh: Any) -> str:
    prepared = prepare(config, mesh)
    state, placed = prepared.abstract, prepared.shardings
    lines = [
        *rows("params", state.params, placed.params),
        *rows("frozen", state.frozen, placed.frozen),
        *rows("optimizer", state.opt_state, placed.opt_state),
        *activations(config, mesh),
    ]
    sizes = " × ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    text = [f"# {config.name}; {sizes}", "# MiB per device, shape, dtype, split over"]
    for name, x, sharding in lines:
        spec = tuple(sharding.spec) if any(sharding.spec) else "copied"
        mib = bytes_per_device(x, sharding) / 2**20
        text.append(f"{mib:9.3f}  {name:48} {list(x.shape)!s:24} {x.dtype!s:9} {spec}")
    return "\n".join(text) + "\n"


def name_of(mesh: MeshConfig, chips: int) -> str:
    sizes = mesh_lib.mesh_sizes(mesh, chips)
    return "-".join(f"{axis}{size}" for axis, size in sizes.items() if size > 1)


@pytest.mark.parametrize(
    ("name", "cfg", "chips"), CASES, ids=[f"{c[0]}.{name_of(*c[1:])}" for c in CASES]
)
def test_shardings_are_as_written_down(name: str, cfg: MeshConfig, chips: int) -> None:
    config = load_config(name)
    sizes = mesh_lib.mesh_sizes(cfg, chips)
    given = table(config, AbstractMesh(tuple(sizes.values()), tuple(sizes)))
    path = FOLDER / f"{name}.{name_of(cfg, chips)}.txt"
    if os.environ.get("GOLDEN_UPDATE"):
        path.write_text(given)
    assert given == path.read_text(), f"{path.name}: see the module's first lines"


def test_no_large_tensor_is_copied_to_every_chip() -> None:
    config = load_config("qwen2_5_7b")
    sizes = mesh_lib.mesh_sizes(MeshConfig(data=1, fsdp=-1), 256)
    mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes))
    prepared = prepare(config, mesh)
    shapes = flatten(prepared.abstract.params)
    copied = {
        path: x.shape
        for path, x in shapes.items()
        if x.size > 2**20 and not any(prepared.shardings.params[path].spec)
    }
    assert not copied
