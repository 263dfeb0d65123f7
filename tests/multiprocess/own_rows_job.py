"""What one process of a job does for `test_same_curve.py`, and writes to OUT/<process>.json.

    python own_rows_job.py OUT WORKDIR

The devices of the processes are dealt out in turns, as on a TPU slice, whose hosts are squares of
the torus: the rows that a process feeds are then not one run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from scalingnote_jax.config import ExactConfig, MeshConfig
from scalingnote_jax.config.values import read_workdir_config
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.retrieval.exact import exact_search
from scalingnote_jax.vectors.encoder import unit_rows
from scalingnote_jax.workflow.workdir import Workdir


class Watched:
    """Vectors that note which rows are read."""

    def __init__(self, vectors: np.ndarray):
        self.vectors, self.shape, self.read = vectors, vectors.shape, []

    def __getitem__(self, rows: slice) -> np.ndarray:
        self.read += range(*rows.indices(self.shape[0]))
        return self.vectors[rows]


def meshes() -> dict[str, Mesh]:
    by_process = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    local = jax.local_device_count()
    in_turns = [by_process[p * local + i] for i in range(local) for p in range(jax.process_count())]
    return {
        "plain": mesh_lib.make_mesh(MeshConfig()),
        "in turns": mesh_lib.make_mesh(MeshConfig(fsdp=2), in_turns),
        "slices": mesh_lib.make_mesh(MeshConfig(slice=2, fsdp=2)),
        "tensor over processes": mesh_lib.make_mesh(MeshConfig(tensor=4)),
    }


def feeding(mesh: Mesh) -> dict[str, list[int]]:
    """The rows that this process feeds of a batch of 16, its part, and the batch as it arrives."""
    rows = mesh_lib.own_rows(mesh, 16)
    batch = mesh_lib.put_batch({"rows": rows.astype(np.int32)}, mesh)["rows"]
    whole = jax.jit(lambda x: x + 0, out_shardings=mesh_lib.replicated(mesh))(batch)
    return {
        "rows": rows.tolist(),
        "part": list(mesh_lib.batch_part(mesh)),
        "arrived": np.asarray(whole).tolist(),
    }


def searching(mesh: Mesh) -> dict[str, list]:
    """The rows that this process reads, and what it finds."""
    numbers = np.random.default_rng(0).integers(-3, 4, size=(103, 4)).astype(np.float32)
    watched = Watched(numbers[3:])
    cfg = ExactConfig(block_rows=4, query_block=2, device_rows=8)
    _, rows = exact_search(numbers[:3], watched, 20, cfg, mesh)
    return {"read": watched.read, "found": rows.tolist()}


def encoding(mesh: Mesh, workdir: Workdir) -> list[list[float]]:
    """Unit vectors of the corpus by the teacher of the workdir."""
    from run_parts import encoder as encoder_of  # touches devices: after `start`

    encoder = encoder_of(read_workdir_config(workdir.root), workdir, "teacher", "doc", mesh)
    documents = Collection.open(workdir.data).documents
    return unit_rows(encoder.encode([(d.title, d.text) for d in documents])).tolist()


def main() -> None:
    mesh_lib.start()
    out, workdir = Path(sys.argv[1]), Workdir(sys.argv[2])
    found: dict = {name: feeding(mesh) for name, mesh in meshes().items()}
    in_turns = meshes()["in turns"]
    found["search"] = searching(in_turns)
    found["vectors"] = encoding(in_turns, workdir)
    (out / f"{jax.process_index()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
