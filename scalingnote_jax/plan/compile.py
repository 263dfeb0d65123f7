"""Compiles what a job would run for devices that are not there: the very step that `train` jits and
the function that `encode` jits, on shapes instead of arrays.

Whether it fits is the compiler's answer, not an estimate.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from scalingnote_jax.config import TowersConfig, TrainConfig
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.devices.sharding import shardings_of
from scalingnote_jax.devices.tpu_flags import Flags
from scalingnote_jax.models.layers.params import flatten, nest
from scalingnote_jax.models.tower import TowerDef
from scalingnote_jax.plan import hlo
from scalingnote_jax.plan.topology import UNITS
from scalingnote_jax.vectors.encoder import jit_apply

Shapes = dict[str, jax.ShapeDtypeStruct]
_NEEDED = re.compile(r"(?:temporaries|program|Used) \(?([\d.]+)([KMGT])\)?(?= exceeds| of)")


@dataclass(frozen=True)
class Compiled:
    """The compiler's answer, for one device.

    Attributes:
        secs: it took.
        temporary_bytes: beyond arguments and results: activations, gradients, loss; and the code.
        total_bytes: of all that is in memory at the worst moment; 0 where the compiler did not say.
        module: the compiled program; None where it does not fit.
        refusal: why not, in the compiler's words.
    """

    secs: float
    temporary_bytes: int
    total_bytes: int
    module: hlo.Module | None
    refusal: str = ""


def compile_program(lowered: Any, flags: Flags | None = None) -> Compiled:
    """Compiles a `jax.stages.Lowered`.

    Args:
        flags: the compiler's options for the chip, as a run sets them; None for its defaults.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, _no_cache():
        # The text is taken from what the compiler dumps: through JAX, programs with some kinds of
        # overlapped transfers cannot be printed.
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True, **(flags or {})}
        try:
            program = lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as e:
            if "RESOURCE_EXHAUSTED" not in str(e):
                raise
            return _refused(str(e), time.monotonic() - started)
        secs = time.monotonic() - started
        (text,) = Path(folder).glob("*after_optimizations.txt")
        module = hlo.parse(text.read_text())
    memory = program.memory_analysis()
    # Not `temp_size_in_bytes`: some versions of libtpu add the on-chip memories to it.
    total = memory.peak_memory_in_bytes + memory.generated_code_size_in_bytes
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Compiled(secs, total - memory.argument_size_in_bytes - results, total, module)


def _refused(message: str, secs: float) -> Compiled:
    found = _NEEDED.search(message)
    needed = int(float(found[1]) * UNITS[found[2]]) if found else 0
    return Compiled(secs, 0, needed, None, message.splitlines()[0])


@contextmanager
def _no_cache() -> Iterator[None]:
    """A program that comes from the cache on disk dumps no text."""
    options: Any = jax.config
    before = options.jax_enable_compilation_cache
    options.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        options.update("jax_enable_compilation_cache", before)


def batch_shapes(train: TrainConfig, teacher: TowersConfig) -> Shapes:
    """A batch of the largest buckets, with one positive per query, as no data is looked at. Packed
    documents are taken for one to a row, which is the most rows that there can be.
    """
    size, group = train.batch_size, 1 + train.negatives_per_query
    query, doc = teacher.query.text.max_tokens, teacher.doc.text.max_tokens
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "query_tokens": ((size, query), np.int32),
        "query_mask": ((size, query), np.bool_),
        "query_ids": ((size,), np.int32),
        "doc_ids": ((size, group), np.int32),
        "positive_ids": ((size, 1), np.int32),
    }
    if train.pack_documents:
        rows = (size * group, doc)
        shapes |= {"doc_tokens": (rows, np.int32), "doc_segments": (rows, np.int32)}
        shapes["doc_slots"] = ((size, group), np.int32)
    else:
        rows_of_docs = (size, group, doc)
        shapes |= {"doc_tokens": (rows_of_docs, np.int32), "doc_mask": (rows_of_docs, np.bool_)}
    if train.title_prediction == "contrastive":
        like = "doc_segments" if train.pack_documents else "doc_mask"
        shapes["doc_beginnings"] = shapes[like]
    return {name: jax.ShapeDtypeStruct(*x) for name, x in shapes.items()}


def lower_encode(tower: TowerDef, mesh: Mesh, batch_size: int) -> Any:
    """`encode`'s function on a batch of the largest bucket, lowered."""
    shapes, axes = (flatten(tree) for tree in tower.abstract())
    spread = shardings_of(shapes, axes, mesh)
    params = {
        path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=spread[path])
        for path, x in shapes.items()
    }
    rows, length = mesh_lib.batch_sharding(mesh), tower.cfg.text.max_tokens
    tokens, mask = (
        jax.ShapeDtypeStruct((batch_size, length), dtype, sharding=rows)
        for dtype in (np.int32, np.bool_)
    )
    return jit_apply(tower, mesh).lower(nest(params), tokens, mask)
