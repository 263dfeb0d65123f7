"""Builds and opens an index of any engine: the manifest in its folder says which it is of."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from scalingnote_jax.config import IndexConfig
from scalingnote_jax.errors import bad_input
from scalingnote_jax.progress import say
from scalingnote_jax.retrieval.engines.exact_index import ExactIndex
from scalingnote_jax.retrieval.engines.milvus_index import MilvusIndex, build_milvus
from scalingnote_jax.retrieval.engines.vector_index import REBUILD, VectorIndex
from scalingnote_jax.retrieval.scann.scann_index import ScannIndex
from scalingnote_jax.vectors.store import VectorStore
from scalingnote_jax.workflow.artefact import (
    damaged,
    partial_folder,
    put_in_place,
    read_manifest,
    write_manifest,
)


def open_index(dir: Path, store: VectorStore) -> VectorIndex:
    """Opens the index in a folder.

    Raises:
        UserError: it is damaged, of another store, or of an engine that is not here.
    """
    manifest = read_manifest(dir, "index", REBUILD, {"engine?": str})
    engine = manifest.get("engine", "scann")
    if engine == "scann":
        return ScannIndex.open(dir, store.fingerprint)
    try:
        if engine == "exact":
            return ExactIndex.open(dir, manifest, store)
        if engine == "milvus":
            return MilvusIndex.open(dir, manifest, store)
    except (KeyError, TypeError) as e:
        raise damaged(dir / "manifest.json", f"no usable field {e}", REBUILD) from e
    raise bad_input(str(dir), f"of the engine {engine!r}", "scann, exact or milvus", REBUILD)


def build_other(store: VectorStore, cfg: IndexConfig, dir: Path) -> None:
    """Builds an index of another engine than ScaNN, which has nothing to tune.

    Raises:
        UserError: as `build_milvus`.
    """
    partial = partial_folder(dir)
    try:
        manifest = _exact(store) if cfg.engine == "exact" else build_milvus(store, cfg.uri, partial)
        write_manifest(partial, manifest)
        put_in_place(partial, dir)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    say(f"index: {cfg.engine}, {manifest['kind']}, {len(store)} vectors")


def _exact(store: VectorStore) -> dict[str, Any]:
    size = len(store) * store.dim * 4
    head: dict[str, Any] = {
        "engine": "exact",
        "kind": "exact",
        "settings": {"kind": "exact"},
        "parts": [],
    }
    head |= {"count": len(store), "dim": store.dim, "store": store.fingerprint}
    return head | {"memory_bytes": size, "disk_bytes": 0}
