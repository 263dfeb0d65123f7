"""Adding, replacing and deleting documents of an index without building it again.

Index and vector store change together: row r of the store stays vector r of the index, so exact
search, ids and hashes hold as they do after a build. ScaNN appends what is new and moves the last
vector of a part into the place of a deleted one; the store follows. What this cannot do is learn:
the leaves and codebooks stay those of the vectors that the index was built from, so recall falls as
the corpus drifts away from them, and tuning was done on the old corpus. After `REBUILD_SHARE` of
the rows has changed, build again.
"""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from scalingnote_jax.errors import bad_input
from scalingnote_jax.progress import say
from scalingnote_jax.retrieval.build_index import describe, write_parts
from scalingnote_jax.retrieval.exact import check_finite, check_unit
from scalingnote_jax.retrieval.scann.scann_index import ScannIndex
from scalingnote_jax.vectors.store import StoreWriter, VectorStore
from scalingnote_jax.workflow.artefact import partial_folder, put_in_place, write_manifest

# Of the old store's manifest: what the writer says itself, and the corpus, which is another now
_NOT_KEPT = ("shards", "ids", "count", "dim", "dtype", "corpus")
REBUILD_SHARE = 0.2  # changed rows / rows at the build: our choice


class IndexUpdate:
    """An opened index and its store, with changes in memory until `save`.

    The folders of a workdir are inputs of its later steps, which do not know the texts of new
    documents: give a copy of them that is served. Changes of one process only; `save` replaces two
    folders one after the other, and an index whose store is not in place yet is refused on opening.

    Attributes:
        index: searches what there is now; a row means `ids[row]`.
        changed: rows added, replaced or deleted since the build.
    """

    def __init__(self, store: VectorStore, index: ScannIndex, dir: Path):
        self.index, self._dir = index, dir
        self.changed: int = index.manifest.get("changed", 0)
        self._built: int = index.manifest.get("built_rows", len(store))
        self._begin(store)

    def _begin(self, store: VectorStore) -> None:
        """Changes are counted from what is in this store."""
        self._store = store
        edges = np.cumsum([0, *self.index.sizes]).tolist()
        pairs = list(itertools.pairwise(edges))
        self._ids = [store.ids[a:b] for a, b in pairs]
        # Row of the store, or −1 − place among the new vectors
        self._origin = [list(range(a, b)) for a, b in pairs]
        self._place = {d: (p, i) for p, ids in enumerate(self._ids) for i, d in enumerate(ids)}
        self._new: list[np.ndarray] = []

    @classmethod
    def open(cls, store_dir: str | Path, index_dir: str | Path) -> IndexUpdate:
        """Opens both, with the checks of each.

        Raises:
            UserError: as `VectorStore.open` and `ScannIndex.open`; or a store that is not float32,
                whose old vectors would lose once more when they are written again.
        """
        store = VectorStore.open(store_dir)
        if store.manifest["dtype"] != "float32":
            raise bad_input(
                str(store_dir),
                f"stored as {store.manifest['dtype']}",
                "a float32 store",
                "encode with --encode.store_dtype=float32",
            )
        return cls(store, ScannIndex.open(index_dir, store.fingerprint), Path(index_dir))

    @property
    def ids(self) -> list[str]:
        """The id of each row, as the index answers now. Do not change the list."""
        if len(self._ids) == 1:  # asked for by every search
            return self._ids[0]
        return [name for ids in self._ids for name in ids]

    @property
    def needs_rebuild(self) -> bool:
        """Whether more has changed than leaves and codebooks of the build are good for."""
        return self.changed > REBUILD_SHARE * self._built

    def upsert(self, ids: list[str], vectors: np.ndarray) -> None:
        """Adds documents, and replaces the vectors of those whose id is there.

        Args:
            ids: each once.
            vectors: [len(ids), D] float32 unit vectors, finite.

        Raises:
            UserError: shapes, an id twice or not a text, NaN, another length than 1. Nothing is
                changed then.
        """
        wanted = (len(ids), self.index.manifest["dim"])
        if vectors.shape != wanted:
            raise bad_input(
                "upsert", f"vectors of shape {vectors.shape}", str(wanted), "one vector for each id"
            )
        if len(set(ids)) != len(ids):
            raise bad_input("upsert", "an id twice", "each id once", "remove the duplicate")
        for name in ids:
            if not isinstance(name, str) or not name:
                raise bad_input(
                    "upsert", f"the id {name!r}", "texts that are not empty", "change it"
                )
        check_finite(vectors, "upsert")
        check_unit(vectors, "upsert")
        for name, vector in zip(ids, np.ascontiguousarray(vectors, np.float32), strict=True):
            part, place = self._place.get(name, (self._smallest(), None))
            self.index.parts[part].searcher.upsert([place], vector[None], 1)
            self._new.append(vector)
            if place is None:
                self._place[name] = part, len(self._ids[part])
                self._ids[part].append(name)
                self._origin[part].append(-len(self._new))
            else:
                self._origin[part][place] = -len(self._new)
        self.changed += len(ids)

    def delete(self, ids: list[str]) -> None:
        """Deletes documents.

        Raises:
            UserError: an id is not there, or no document would be left in a part. Nothing is
                changed then.
        """
        unknown = [name for name in ids if name not in self._place]
        if unknown or len(set(ids)) != len(ids):
            given = f"id {unknown[0]!r} is not in the index" if unknown else "an id twice"
            raise bad_input("delete", given, "ids of the index, each once", "leave it out")
        for part, held in enumerate(self._ids):
            if sum(self._place[name][0] == part for name in ids) == len(held):
                raise bad_input("delete", "every document of a part", "some left", "build again")
        for name in ids:
            part, place = self._place.pop(name)
            self.index.parts[part].searcher.delete([place])
            held, origin = self._ids[part], self._origin[part]
            last, last_origin = held.pop(), origin.pop()
            if last != name:
                held[place], origin[place] = last, last_origin
                self._place[last] = part, place
        self.changed += len(ids)

    def save(self) -> None:
        """Writes store and index into their places, and says when it is time to build again. More
        may be changed and saved after that.

        The store no longer says which documents it is of: those that are new are in no collection.
        """
        old, manifest = self._store.on_disk(), self._store.manifest
        extra = {k: v for k, v in manifest.items() if k not in _NOT_KEPT}
        rows = manifest["shards"][0]["rows"]
        ids, origin = self.ids, [row for part in self._origin for row in part]
        with StoreWriter(self._store.dir, self._store.dim, extra, rows) as writer:
            for start in range(0, len(ids), rows):
                chosen = origin[start : start + rows]
                writer.add(ids[start : start + rows], self._gather(old, chosen))
            new_store = writer.close()
        self._write_index(new_store.fingerprint)
        self._begin(new_store)
        if self.needs_rebuild:
            say(
                f"index: {self.changed} rows changed since it was built from {self._built}: "
                "time to build it again"
            )

    def _gather(self, old: Any, origin: list[int]) -> np.ndarray:
        return np.stack([old[r : r + 1][0] if r >= 0 else self._new[-1 - r] for r in origin])

    def _write_index(self, fingerprint: str) -> None:
        partial = partial_folder(self._dir)
        try:
            parts = write_parts(self.index.parts, partial, "scann")
            counts = {"count": len(self.index), "store": fingerprint}
            counts |= {"changed": self.changed, "built_rows": self._built}
            settings = self.index.manifest["settings"]
            self.index.manifest |= describe(settings, parts) | counts
            write_manifest(partial, self.index.manifest)
            put_in_place(partial, self._dir)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def _smallest(self) -> int:
        return min(range(len(self._ids)), key=lambda part: len(self._ids[part]))
