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

from scalingnote_jax.config import EncodeConfig
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import UserError
from scalingnote_jax.hashing import content_hash
from scalingnote_jax.progress import progress, say
from scalingnote_jax.text.contract import token_table
from scalingnote_jax.text.tokens import TokenTable
from scalingnote_jax.vectors.encoder import Encoder, load_encoder
from scalingnote_jax.vectors.store import FORM, REBUILD, StoreWriter, VectorStore
from scalingnote_jax.vectors.trained import TrainedTower
from scalingnote_jax.workflow.artefact import MANIFEST, read_manifest, remove_folder
from scalingnote_jax.workflow.engine import Place


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
    store, wrong = _stored(folder, made_from, share)
    if not mesh_lib.on_any_process(store is None) and store is not None:
        return store
    if wrong:
        say(f"{folder.name}: made again: {wrong}")
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


def _stored(
    folder: Path, made_from: dict[str, Any], share: tuple[int, int]
) -> tuple[VectorStore | None, str]:
    """The store in `folder`, if it was made from this and this share of it is whole; else what is
    damaged, if something is.
    """
    if not (folder / MANIFEST).is_file():
        return None, ""
    try:
        store = VectorStore.open(folder, share)
    except UserError as e:
        return None, str(e)
    fits = all(store.manifest.get(key) == value for key, value in made_from.items())
    return (store if fits else None), ""


def side_vectors(
    tower: TrainedTower,
    collection: Collection,
    vectors: Path,
    tokens: Path,
    cfg: EncodeConfig,
    mesh: Mesh,
    encoder: Callable[[], Encoder] | None = None,
) -> VectorStore:
    """Unit vectors of all documents or queries, whichever the tower is for: computed once, then
    read. Document vectors that were brought stay.

    Args:
        vectors, tokens: the folders of a workdir's vectors and of its token tables.
        encoder: gives the tower, where it is kept.
    """
    if tower.side == "doc" and (kept := brought_vectors(tower, collection, vectors)):
        return kept
    loaded = encoder() if encoder else load_encoder(tower, cfg, mesh)
    if tower.side == "doc":
        name, ids = "documents", collection.doc_ids
        texts = ((d.title, d.text) for d in collection.documents)
    else:
        name, ids = "queries", collection.query_ids
        texts = (("", q.text) for q in collection.queries)
    key = f"{collection.fingerprint}-{name}"
    return stored_vectors(
        loaded,
        tower.store(vectors),
        f"{name} ({tower.role})",
        ids,
        lambda: token_table(texts, tower.cfg, loaded.tokenizer, tokens, key),
        {"checkpoint": tower.identity, "corpus": collection.fingerprint},
        unit=True,
        shard_rows=cfg.shard_rows,
        dtype=cfg.store_dtype,
    )


def brought_vectors(
    tower: TrainedTower, collection: Collection, vectors: Path
) -> VectorStore | None:
    """The document vectors that others have made for this teacher and collection; None: those that
    are there, if any, are a tower's.
    """
    folder = tower.store(vectors)
    if not (folder / MANIFEST).is_file():
        return None
    manifest = read_manifest(folder, "encode", REBUILD, FORM)
    made_from = {"checkpoint": tower.identity, "corpus": collection.fingerprint}
    same = all(manifest.get(key) == value for key, value in made_from.items())
    if "brought" not in manifest or not same:
        return None
    return VectorStore.open(folder, (jax.process_index(), jax.process_count()))


def document_vectors(
    tower: TrainedTower, collection: Collection, cfg: EncodeConfig, place: Place
) -> None:
    """Makes the vectors of all documents, in `place.folder`."""
    assert tower.store(place.folder.parent) == place.folder
    if brought_vectors(tower, collection, place.folder.parent):  # of an earlier config
        remove_folder(place.folder)
    side_vectors(tower, collection, place.folder.parent, place.workdir.tokens, cfg, place.mesh)


def content(folder: Path) -> str:
    """The content hash of a folder of vectors."""
    return VectorStore.open(folder).fingerprint


def text_vectors(
    tower: TrainedTower,
    texts: list[str],
    name: str,
    dtype: str,
    encode: EncodeConfig,
    place: Place,
) -> VectorStore:
    """A tower's raw vectors of query texts, from the cache of that name if it was made by this
    tower from these texts.

    Args:
        dtype: of the vectors on disk.
    """
    encoder = load_encoder(tower, encode, place.mesh)
    pairs, key, tokens = [("", t) for t in texts], content_hash(texts), place.workdir.tokens
    return stored_vectors(
        encoder,
        place.workdir.embeddings(tower.role, name),
        f"queries ({tower.role})",
        [str(i) for i in range(len(texts))],
        lambda: token_table(pairs, tower.cfg, encoder.tokenizer, tokens, key),
        {"checkpoint": tower.identity, "texts": key},
        unit=False,
        shard_rows=encode.shard_rows,
        dtype=dtype,
    )
