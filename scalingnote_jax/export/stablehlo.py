"""A tower as StableHLO programs, by `jax.export`: tokens and mask to unit vectors, for a process
that has JAX and NumPy but neither this package nor Flax.

The weights lie beside the programs and are an argument of them: inside, each program would carry
its own copy, and what a program is stored in ends at 2 GiB. A program is some 20 kB. The batch size
is left open. The length is not, as positions are computed when the program is made: there is one
program for each of the lengths that the tower pads to.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, export

from scalingnote_jax.errors import bad_input
from scalingnote_jax.export.exported_tower import ExportedTower
from scalingnote_jax.models.layers.params import nest
from scalingnote_jax.models.tower import normalise

WEIGHTS = "weights.npz"
PLATFORMS = ("cpu", "tpu")


def write_stablehlo(tower: ExportedTower, folder: Path) -> dict[str, Any]:
    """Programs, weights and tokenizer.

    Returns:
        what a reader has to know of the files: which program is for which length.

    Raises:
        UserError: what `jax.export` needs is not installed.
    """
    try:
        importlib.import_module("flatbuffers")  # jax.export asks for it at the end only
    except ImportError as e:
        raise bad_input(
            "--format stablehlo",
            "flatbuffers is not installed",
            "what jax.export writes programs with",
            "pip install 'scalingnote_jax[export]'",
        ) from e
    files = {length: f"tower-{length}.jaxexport" for length in tower.text.buckets}
    for length, name in files.items():
        (folder / name).write_bytes(_program(tower, length))
    # NumPy's own form: the process that reads it may have no other. Nothing in it is pickled.
    weights: dict[str, Any] = {p: np.asarray(w, np.float32) for p, w in tower.params.items()}
    np.savez(folder / WEIGHTS, **weights)
    tower.tokenizer.save(folder)
    return {"programs": files, "platforms": PLATFORMS, "jax": jax.__version__}


def _program(tower: ExportedTower, length: int) -> bytes:
    """The serialised function (weights {path: array}, tokens [b, `length`] int32, mask [b,
    `length`] bool) → [b, D] float32 unit vectors, for any b and all `PLATFORMS`.
    """
    definition = replace(tower.definition, cfg=replace(tower.cfg, remat="none"))

    def encode(weights: dict[str, Any], tokens: Array, mask: Array) -> Array:
        return normalise(definition.apply(nest(weights), tokens, mask))

    weights = {p: jax.ShapeDtypeStruct(w.shape, jnp.float32) for p, w in tower.params.items()}
    (size,) = export.symbolic_shape("b")
    batch = [jax.ShapeDtypeStruct((size, length), kind) for kind in (jnp.int32, jnp.bool_)]
    exported = export.export(jax.jit(encode), platforms=PLATFORMS)(weights, *batch)
    return bytes(exported.serialize())
