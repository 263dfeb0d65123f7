"""Frozen document vectors in stages 2 and 3: read from the store that `encode` made, never from a
tower.

What is computed from them once for all steps (the best documents of each query text, the covariance
of all) is kept beside the store with a manifest of what it was made from. What a step needs, the
host gathers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from scalingnote_jax.config import Config, DistillConfig
from scalingnote_jax.data.collection import Collection
from scalingnote_jax.data.order import Draw, draw
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import bad_input
from scalingnote_jax.losses.distill import needs_candidates, needs_documents
from scalingnote_jax.progress import progress
from scalingnote_jax.retrieval.exact import exact_search
from scalingnote_jax.vectors.encode import weights_hash
from scalingnote_jax.vectors.encoder import unit_rows
from scalingnote_jax.vectors.store import VectorStore
from scalingnote_jax.workflow.artefact import (
    MANIFEST,
    check_files,
    file_entry,
    partial_folder,
    put_in_place,
    read_manifest,
    write_manifest,
)
from scalingnote_jax.workflow.workdir import Workdir

FILE = "values.npy"
_BLOCK = 65_536  # rows at a time
_REDO = "delete the folder; it is then made again"


def frozen_store(config: Config, workdir: Workdir, needed: bool) -> VectorStore | None:
    """The document vectors of this very teacher; None if they are not there and not needed.

    Raises:
        UserError: they are needed.
    """
    folder, current = workdir.embeddings("teacher", "doc"), weights_hash(config, workdir, "teacher")
    if (folder / MANIFEST).is_file():
        store = VectorStore.open(folder, (jax.process_index(), jax.process_count()))
        if store.manifest["checkpoint"] == current:
            return store
    if needed:
        given, expected = "no document vectors of this teacher", "those that the loss looks at"
        raise bad_input(str(folder), given, expected, "run `scalingnote encode` first")
    return None


def covariance(store: VectorStore, folder: Path) -> np.ndarray:
    """[D, D] float32, the centred covariance of all vectors of a store: kept in `folder`."""

    def make() -> np.ndarray:
        rows, n = store.on_disk(), len(store)
        total, moment = np.zeros(store.dim), np.zeros((store.dim, store.dim))
        for start in range(0, n, _BLOCK):
            block = rows[start : start + _BLOCK].astype(np.float64)
            total += block.sum(0)
            moment += block.T @ block
        mean = total / n
        return (moment / n - np.outer(mean, mean)).astype(np.float32)

    return kept(folder, {"documents": store.fingerprint}, make)


def best_documents(
    queries: VectorStore, count: int, documents: VectorStore, k: int, folder: Path, mesh: Mesh
) -> np.ndarray:
    """[count, k] int32, the k best documents (rows) of the first `count` queries by exact search,
    best first: kept in `folder`.

    Args:
        queries: raw vectors, of at least the documents' D.
        documents: unit vectors.
    """

    def make() -> np.ndarray:
        found, raw, on_disk = [], queries.on_disk(), documents.on_disk()
        with progress("teacher's best documents", total=count, unit="queries") as bar:
            for start in range(0, count, _BLOCK):
                block = raw[start : min(start + _BLOCK, count)][:, : documents.dim]
                found.append(exact_search(unit_rows(block), on_disk, k, mesh=mesh)[1])
                bar.advance(len(block))
        return np.concatenate(found)

    made_from = {"queries": queries.fingerprint, "documents": documents.fingerprint}
    return kept(folder, made_from | {"count": count, "k": k}, make)


def kept(folder: Path, made_from: dict[str, Any], make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in `folder` if it was made from just this, else a new one, which is written there
    by the first process. Every process takes part in `make`.
    """
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder, "distill", _REDO)
        if all(manifest.get(name) == value for name, value in made_from.items()):
            check_files(folder, manifest["files"], _REDO)
            return np.load(folder / FILE)
    values = make()
    mesh_lib.barrier(f"made {folder.name}")  # nobody looks for it any more
    if mesh_lib.first_process():
        partial = partial_folder(folder)
        np.save(partial / FILE, values)
        write_manifest(partial, made_from | {"files": [file_entry(partial / FILE)]})
        put_in_place(partial, folder)
    return values


def check_documents(cfg: DistillConfig, documents: int, parts: int) -> None:
    """Refuses candidates that there are not, or that the devices cannot share.

    Args:
        documents: that the corpus has.
        parts: of a batch, on devices and one after the other.
    """
    if not 1 <= cfg.top_documents <= documents:
        given, expected = str(cfg.top_documents), f"1 to {documents}, the documents that there are"
        raise bad_input("--distill.top_documents", given, expected, "change it")
    if cfg.sample_documents < 1 or cfg.sample_documents % parts:
        raise bad_input(
            "--distill.sample_documents",
            f"{cfg.sample_documents} over {parts} parts of a batch",
            f"a multiple of {parts}",
            f"set it to {max(1, -(-cfg.sample_documents // parts)) * parts}",
        )
    if cfg.score_temperature <= 0:
        given = str(cfg.score_temperature)
        raise bad_input("--distill.score_temperature", given, "above 0", "e.g. 0.05")


class Candidates:
    """The documents that a step of stage 2 looks at: the teacher's best of each of its queries, and
    a sample that they share.
    """

    def __init__(
        self,
        store: VectorStore,
        collection: Collection,
        best: np.ndarray,
        sample: int,
        seed: int,
        part: int = 0,
        parts: int = 1,
    ):
        """
        Args:
            best: [texts, k] int32, as `best_documents` gives them.
            sample: S, of all processes.
            part, parts: of the sample, this process's.
        """
        assert len(store) == len(collection.doc_ids), "vectors of other documents"
        self._rows, self._groups = store.on_disk(), collection.doc_groups
        self._best, self._sample, self._seed = best, sample, seed
        size = sample // parts
        self._own = slice(part * size, (part + 1) * size)

    def batch(self, step: int, texts: np.ndarray) -> dict[str, np.ndarray]:
        """What joins the batch of a step.

        Args:
            texts: [b], this process's rows of the batch, as numbers of texts.

        Returns:
            top_emb [b, k, D], top_ids [b, k], sample_emb [s, D], sample_ids [s]; ids are groups of
            documents of equal text.
        """
        best = self._best[texts]
        sample = draw(len(self._groups), self._seed, Draw.SAMPLE, step, np.arange(self._sample))
        sample = sample[self._own]
        return {
            "top_emb": self._rows.take(best),
            "top_ids": self._groups[best],
            "sample_emb": self._rows.take(sample),
            "sample_ids": self._groups[sample],
        }


@dataclass(frozen=True)
class Documents:
    """What stage 2 sees of the frozen document vectors, as far as its loss looks at them.

    Attributes:
        candidates: the documents of each step.
        covariance: [D, D], of all.
    """

    candidates: Candidates | None
    covariance: np.ndarray | None


NO_DOCUMENTS = Documents(None, None)


def documents_for_loss(
    config: Config,
    collection: Collection,
    workdir: Workdir,
    mesh: Mesh,
    queries: VectorStore,
    count: int,
    store: VectorStore | None,
) -> Documents:
    """What the terms of the config look at; `NO_DOCUMENTS` where they look at none.

    Args:
        queries: the teacher's raw vectors, of which the first `count` are learned.
        store: the document vectors, where a term needs them.
    """
    cfg = config.distill
    if store is None or not needs_documents(cfg):
        return NO_DOCUMENTS
    matrix = candidates = None
    if cfg.w_metric > 0:
        matrix = covariance(store, workdir.embeddings("teacher", "doc-covariance"))
    if needs_candidates(cfg):
        check_documents(cfg, len(store), mesh_lib.batch_shards(mesh) * cfg.accumulate)
        folder = workdir.embeddings("teacher", "distill-best")
        best = best_documents(queries, count, store, cfg.top_documents, folder, mesh)
        part = mesh_lib.batch_part(mesh)
        candidates = Candidates(store, collection, best, cfg.sample_documents, config.seed, *part)
    return Documents(candidates, matrix)
