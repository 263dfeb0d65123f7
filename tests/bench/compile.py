"""How long the train step takes to compile: a tower of 32 layers against one of 4.

Layers are scanned over, so the program has one layer whatever the depth. Compiled anew in turns
(A B A B …), without the cache on disk, for 8 fake CPU devices.

    python tests/bench/compile.py
"""

from __future__ import annotations

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import statistics
import time

import jax
from common import last_line, machine

from scalingnote_jax.config import (
    DecoderShape,
    MeshConfig,
    TextConfig,
    TowerConfig,
    TowersConfig,
    TrainConfig,
)
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.plan.compile import batch_shapes
from scalingnote_jax.train.stage1 import program

ROUNDS = 3
SHALLOW, DEEP = 4, 32


def towers(num_layers: int) -> TowersConfig:
    """Both with so many layers, bfloat16, remat."""
    tower = TowerConfig(
        weights="random",
        shape=DecoderShape(hidden_size=256, num_layers=num_layers, head_dim=64),
        text=TextConfig(max_tokens=64, buckets=(64,)),
        remat="full",
        dtype="bfloat16",
    )
    return TowersConfig(tower, tower)


def compile_secs(num_layers: int) -> float:
    """Seconds to lower and compile the step, with everything split over the mesh."""
    train, teacher = TrainConfig(), towers(num_layers)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    _, _, prepared, step = program(train, teacher, 0, mesh, 100)
    started = time.monotonic()
    shapes = batch_shapes(train, teacher)
    step.lower(prepared.abstract, shapes).compile()  # type: ignore[attr-defined]
    return time.monotonic() - started


def main() -> None:
    jax.config.update("jax_enable_compilation_cache", False)
    compile_secs(SHALLOW)  # the first of a process pays for much else
    secs: dict[int, list[float]] = {SHALLOW: [], DEEP: []}
    for _ in range(ROUNDS):
        for depth, times in secs.items():
            times.append(compile_secs(depth))
            print(f"{depth} layers: {times[-1]:.1f} s", flush=True)
    deep, shallow = (statistics.median(secs[depth]) for depth in (DEEP, SHALLOW))
    last_line("compile", deep, shallow, "s", layers=[DEEP, SHALLOW], machine=machine("jax"))


if __name__ == "__main__":
    main()
