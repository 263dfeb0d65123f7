"""Vectors of many texts, made once and kept: again only if what they were made from has changed.

The towers that make them are loaded by `encoder.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from scalingnote_jax.config import Config
from scalingnote_jax.config.values import section_hash
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.progress import progress
from scalingnote_jax.text.contract import token_table
from scalingnote_jax.text.tokens import TokenTable
from scalingnote_jax.vectors.encoder import Encoder, load_encoder, tower_config, trained_in
from scalingnote_jax.vectors.store import StoreWriter, VectorStore
from scalingnote_jax.workflow.artefact import MANIFEST
from scalingnote_jax.workflow.workdir import Workdir, output_of


def stored_vectors(
    encoder: Encoder,
    folder: Path,
    name: str,
    ids: Sequence[str],
    make_table: Callable[[], TokenTable],
    made_from: dict[str, Any],
    *,
    unit: bool,
    shard_rows: int,
    dtype: str = "float32",
) -> VectorStore:
    """The vector store in `folder` if it was made from just this; otherwise it is made, shard by
    shard.

    Args:
        name: for the progress bar.
        ids: one per row of the table.
        made_from: content hashes of what the vectors depend on; goes into the manifest.
        unit: as for search (`Encoder.unit`), or raw vectors (the teacher's, for distillation).
    """
    dim = encoder.dim if unit else encoder.tower.dim
    made_from = made_from | {"contract": encoder.contract, "normalised": unit, "dim": dim}
    made_from |= {"dtype": dtype}
    share = (jax.process_index(), jax.process_count())
    if (folder / MANIFEST).is_file():
        store = VectorStore.open(folder, share)
        if all(store.manifest.get(key) == value for key, value in made_from.items()):
            return store
    table = make_table()
    with ExitStack() as stack:
        if mesh_lib.first_process():
            writer = StoreWriter(folder, dim, made_from, shard_rows, dtype)
            stack.enter_context(writer)
        bar = stack.enter_context(progress(f"encode {name}", total=len(table), unit="texts"))
        for start in range(0, len(table), shard_rows):
            stop = min(start + shard_rows, len(table))
            vectors = encoder.encode_table(table, np.arange(start, stop), bar)
            if mesh_lib.first_process():
                writer.add(list(ids[start:stop]), encoder.unit(vectors) if unit else vectors)
        if mesh_lib.first_process():
            writer.close()
    mesh_lib.barrier(f"vectors {name}")
    return VectorStore.open(folder, share)


def side_vectors(
    config: Config,
    collection: Collection,
    workdir: Workdir,
    tower: str,
    side: str,
    mesh: Mesh,
    encoder: Encoder | None = None,
) -> VectorStore:
    """Unit vectors of all documents ("doc") or queries ("query") by one of `encoder.TOWERS`:
    computed once, then read.

    Args:
        encoder: the tower, if it is loaded already.
    """
    cfg, _ = tower_config(config, tower, side)
    encoder = encoder or load_encoder(config, workdir, tower, side, mesh)
    if side == "doc":
        name, ids = "documents", collection.doc_ids
        texts = ((d.title, d.text) for d in collection.documents)
    else:
        name, ids = "queries", collection.query_ids
        texts = (("", q.text) for q in collection.queries)
    key = f"{collection.fingerprint}-{name}"
    return stored_vectors(
        encoder,
        workdir.embeddings(tower, side),
        f"{name} ({tower})",
        ids,
        lambda: token_table(texts, cfg, encoder.tokenizer, workdir.tokens, key),
        {"checkpoint": weights_hash(config, workdir, tower), "corpus": collection.fingerprint},
        unit=True,
        shard_rows=config.encode.shard_rows,
        dtype=config.encode.store_dtype,
    )


def weights_hash(config: Config, workdir: Workdir, tower: str) -> str:
    """What stands for a tower's weights in a manifest."""
    if tower == "untrained":
        return section_hash(config.teacher, config.seed)
    return output_of(*trained_in(config, workdir, tower))
