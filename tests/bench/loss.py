"""The contrastive loss in tiles beside the dense form: memory as the compiler counts it, and time.

    python tests/bench/loss.py

Eight fake CPU devices, D = 1024, both directions, value and gradient. Memory: the temporaries that
the compiled program needs on each device; nothing is allocated, so 262,144 queries are no problem.
Time: both forms in turns on the same arrays, wall clock and processor seconds (others at work
disturb the latter less), with both directions and with one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
from common import last_line, machine, median

from scalingnote_jax.config import MeshConfig, TrainConfig
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.losses.contrastive_form import contrastive_form

DIM = 1024
POSITIVES = 4  # room for known positives of a query
MEMORY_BATCHES = (32_768, 65_536, 131_072, 262_144)
TIMED_BATCH = 8192
ROUNDS = 3
SHAPES = {
    "query_emb": ((DIM,), jnp.float32),
    "doc_emb": ((1, DIM), jnp.float32),
    "query_ids": ((), jnp.int32),
    "doc_ids": ((1,), jnp.int32),
    "positive_ids": ((POSITIVES,), jnp.int32),
}
Batch = dict[str, Any]


def compiled(mesh: Any, batch: int, form: Any, symmetric: bool = True) -> Any:
    """Mean loss and its gradients by queries, documents and scale, compiled for a batch size."""
    cfg = TrainConfig(loss=form, symmetric=symmetric)
    loss = contrastive_form(cfg, batch, batch, mesh)

    def value_and_grad(vectors: Batch, scale: jax.Array, ids: Batch) -> Any:
        def mean_loss(vectors: Batch, scale: jax.Array) -> jax.Array:
            return loss(**vectors, **ids, scale=scale)[0] / batch

        return jax.value_and_grad(mean_loss, argnums=(0, 1))(vectors, scale)

    rows, whole = mesh_lib.batch_sharding(mesh), mesh_lib.replicated(mesh)
    abstract = {name: jax.ShapeDtypeStruct((batch, *s), t) for name, (s, t) in SHAPES.items()}
    f = jax.jit(
        value_and_grad, in_shardings=(rows, whole, rows), out_shardings=(whole, (rows, whole))
    )
    vectors, ids = split(abstract)
    return f.lower(vectors, jax.ShapeDtypeStruct((), jnp.float32), ids).compile()


def split(batch: Batch) -> tuple[Batch, Batch]:
    """Vectors, and ids."""
    vectors = {name: x for name, x in batch.items() if name.endswith("emb")}
    return vectors, {name: x for name, x in batch.items() if name not in vectors}


def memory(mesh: Any) -> dict[int, dict[str, int]]:
    """Batch size → form → bytes of temporaries a device."""
    table: dict[int, dict[str, int]] = {}
    for batch in MEMORY_BATCHES:
        table[batch] = {
            form: compiled(mesh, batch, form).memory_analysis().temp_size_in_bytes
            for form in ("blockwise", "dense")
        }
        ours, dense = (table[batch][form] / 2**20 for form in ("blockwise", "dense"))
        print(
            f"{batch:,} queries: {ours:.1f} MiB in tiles, {dense:.1f} dense, 1/{dense / ours:.0f}"
        )
    return table


def random_batch(mesh: Any) -> Batch:
    """Random unit vectors, no recurring texts."""
    rng = np.random.default_rng(0)

    def unit(*shape: int) -> np.ndarray:
        x = rng.standard_normal(shape, dtype=np.float32)
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    ids = np.arange(TIMED_BATCH, dtype=np.int32)
    positive_ids = np.full((TIMED_BATCH, POSITIVES), -1, np.int32)
    positive_ids[:, 0] = ids
    host = {
        "query_emb": unit(TIMED_BATCH, DIM),
        "doc_emb": unit(TIMED_BATCH, 1, DIM),
        "query_ids": ids,
        "doc_ids": ids[:, None],
        "positive_ids": positive_ids,
    }
    return {name: jax.device_put(x, mesh_lib.batch_sharding(mesh)) for name, x in host.items()}


def speed(mesh: Any, batch: Batch, symmetric: bool) -> dict[str, dict[str, float]]:
    """Form → medians of wall and processor seconds, measured in turns after one run to warm up."""
    vectors, ids = split(batch)
    scale = jax.device_put(jnp.float32(20.0), mesh_lib.replicated(mesh))
    forms: dict[str, Callable[..., Any]] = {
        form: compiled(mesh, TIMED_BATCH, form, symmetric) for form in ("blockwise", "dense")
    }
    results: dict[str, list[dict[str, float]]] = {form: [] for form in forms}
    losses = {form: float(f(vectors, scale, ids)[0]) for form, f in forms.items()}
    np.testing.assert_allclose(losses["blockwise"], losses["dense"], rtol=1e-5)
    for _ in range(ROUNDS):
        for form, f in forms.items():
            wall, cpu = time.monotonic(), time.process_time()
            jax.block_until_ready(f(vectors, scale, ids))
            took = {"secs": time.monotonic() - wall, "cpu_secs": time.process_time() - cpu}
            results[form].append(took)
    medians = {
        form: {field: round(median(r, field), 3) for field in ("secs", "cpu_secs")}
        for form, r in results.items()
    }
    print(f"{'both directions' if symmetric else 'one direction'}: {medians}")
    return medians


def main() -> None:
    """Both comparisons; the last line's `ratio` is that of memory at the largest batch."""
    mesh = mesh_lib.make_mesh(MeshConfig())
    table = memory(mesh)
    batch = random_batch(mesh)
    times = {name: speed(mesh, batch, name == "both") for name in ("both", "one")}
    largest = table[MEMORY_BATCHES[-1]]
    last_line(
        "loss",
        largest["blockwise"],
        largest["dense"],
        "bytes of temporaries a device, 262,144 queries",
        less_is_better=True,
        machine=machine("jax", "jaxlib"),
        tile=TrainConfig().loss_tile,
        temporaries_bytes=table,
        queries_timed=TIMED_BATCH,
        time=times,
        time_ratio={
            name: round(t["blockwise"]["secs"] / t["dense"]["secs"], 3) for name, t in times.items()
        },
        cpu_time_ratio={
            name: round(t["blockwise"]["cpu_secs"] / t["dense"]["cpu_secs"], 3)
            for name, t in times.items()
        },
    )


if __name__ == "__main__":
    main()
