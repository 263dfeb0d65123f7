"""The documents that stage 2 compares scores of, and the hard negatives of stage 3: read from the
vectors that `encode` made, never from a tower.

They are found once for all steps, and kept with a manifest of what they were made from. What a step
needs, the host gathers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from scalingnote_jax.config import DistillConfig, ExactConfig, MineConfig
from scalingnote_jax.data.collection import Collection
from scalingnote_jax.data.negatives import choose, rule_values
from scalingnote_jax.data.order import Draw, draw
from scalingnote_jax.data.relevance import Relevance
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import UserError, bad_input
from scalingnote_jax.files.npy_files import read_npy
from scalingnote_jax.hashing import content_hash
from scalingnote_jax.progress import progress, say
from scalingnote_jax.retrieval.exact import exact_search
from scalingnote_jax.retrieval.mine import ranked
from scalingnote_jax.vectors.encoder import unit_rows
from scalingnote_jax.vectors.store import VectorStore
from scalingnote_jax.workflow.artefact import (
    ENTRY,
    MANIFEST,
    check_files,
    file_entry,
    partial_folder,
    put_in_place,
    read_manifest,
    write_manifest,
)
from scalingnote_jax.workflow.engine import Place

FILE = "values.npy"
_BLOCK = 65_536  # rows at a time
_REDO = "delete the folder; it is then made again"


def open_share(folder: Path) -> VectorStore:
    """The frozen document vectors, of whose files each process checks a part."""
    return VectorStore.open(folder, (jax.process_index(), jax.process_count()))


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
    return stored_values(folder, made_from | {"count": count, "k": k}, make)


def stored_values(
    folder: Path, made_from: dict[str, Any], make: Callable[[], np.ndarray]
) -> np.ndarray:
    """The array in `folder` if it was made from just this, else a new one, which is written there
    by the first process; likewise if it is damaged. Every process takes part in `make`.
    """
    found, wrong = None, ""
    if (folder / MANIFEST).is_file():
        try:
            found = _stored(folder, made_from)
        except UserError as e:
            wrong = str(e)
    if not mesh_lib.on_any_process(found is None) and found is not None:
        return found
    if wrong:
        say(f"made again: {wrong}")
    values = make()
    mesh_lib.barrier(f"made {folder.name}")  # nobody looks for it any more
    if mesh_lib.first_process():
        partial = partial_folder(folder)
        np.save(partial / FILE, values)
        write_manifest(partial, made_from | {"files": [file_entry(partial / FILE)]})
        put_in_place(partial, folder)
    return values


def _stored(folder: Path, made_from: dict[str, Any]) -> np.ndarray | None:
    manifest = read_manifest(folder, "distill", _REDO, {"files": [ENTRY]})
    if any(manifest.get(name) != value for name, value in made_from.items()):
        return None
    check_files(folder, manifest["files"], _REDO)
    return read_npy(folder / FILE, _REDO)


def check_documents(cfg: DistillConfig, documents: int, parts: int) -> None:
    """Refuses candidates that there are not, or that the devices cannot share.

    Args:
        documents: that the corpus has.
        parts: that a batch has on the devices.
    """
    if not 1 <= cfg.top_documents <= documents:
        given, expected = str(cfg.top_documents), f"1 to {documents}, the documents that there are"
        raise bad_input("--distill.top_documents", given, expected, "change it")
    if cfg.sample_documents < 1 or cfg.sample_documents % parts:
        raise bad_input(
            "--distill.sample_documents",
            f"{cfg.sample_documents} over {parts} devices of the slice, data and fsdp axes",
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
        texts = len(collection.doc_ids)
        assert texts in (0, len(store)), "vectors of other documents"
        # Without texts no two documents are known to be the same
        groups = collection.doc_groups if texts else np.arange(len(store))
        self._rows, self._groups = store.on_disk(), groups
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


def candidates_for(
    cfg: DistillConfig,
    collection: Collection,
    store: VectorStore,
    queries: VectorStore,
    count: int,
    folder: Path,
    mesh: Mesh,
    seed: int,
) -> Candidates:
    """The documents that the terms of the config compare.

    Args:
        store: the document vectors.
        queries: the teacher's raw vectors, of which the first `count` are learned.
        folder: where the best documents are kept.
    """
    check_documents(cfg, len(store), mesh_lib.batch_shards(mesh))
    best = best_documents(queries, count, store, cfg.top_documents, folder, mesh)
    part = mesh_lib.batch_part(mesh)
    return Candidates(store, collection, best, cfg.sample_documents, seed, *part)


@dataclass(frozen=True)
class Rules:
    """How hard negatives are chosen, and how the teacher searches for them."""

    mining: MineConfig  # or what is declared of it: not the rounds of stage 1
    exact: ExactConfig


def hard_negatives(
    rules: Rules,
    seed: int,
    collection: Collection,
    relevance: Relevance,
    queries: VectorStore,
    documents: VectorStore,
    place: Place,
) -> np.ndarray:
    """[examples, M] int32, documents (rows) that are hard for each training query, -1 behind the
    last: chosen among the teacher's best by exact search, and kept.

    Args:
        queries: the teacher's raw vectors of the examples' queries.
        documents: unit vectors.
    """
    on_disk, mining, exact = documents.on_disk(), rules.mining, rules.exact

    def make() -> np.ndarray:
        unit = unit_rows(queries.vectors()[:, : documents.dim])
        depth = min(len(documents), mining.last_rank + relevance.width)
        ranking = ranked(unit, on_disk, relevance, depth, exact, place.mesh)
        return choose(ranking, relevance, collection.query_ids, mining, seed)[0].doc_rows

    made_from = {
        "queries": queries.fingerprint,
        "documents": documents.fingerprint,
        "rules": content_hash([rule_values(mining), seed, exact.storage, exact.recall_target]),
        "judgements": collection.fingerprint,
        "collections": relevance.spans(),
    }
    folder = place.workdir.embeddings("teacher", "refine-negatives")
    found = stored_values(folder, made_from, make)
    share, none = (found >= 0).mean(), int((found < 0).all(1).sum())
    say(f"refine: hard negatives {share:.1%} of those wanted; {none} queries have random ones only")
    return found
