"""The ScaNN index over a vector store: one or several parts, checked on opening, answering with
rows of the store.

ScaNN writes into a folder per part: its own float32 copy of the vectors (`dataset.npy`), the hashed
ones, the codebook, the partitioner. Its loader ends the whole process when one of them is missing,
so the manifest's names, sizes and hashes are checked first, and what the files say of themselves
(`scann_files.py`). Ids stay in the vector store. Two builds differ in their bytes, since ScaNN
draws its own random starts. How an index is made is in `build_index.py`, how documents are added
and deleted in `updates.py`.
"""

from __future__ import annotations

import math
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from scalingnote_jax.errors import bad_input
from scalingnote_jax.files.typed_json import COUNT, POSITIVE, SHA256
from scalingnote_jax.retrieval.exact import check_search, check_unit
from scalingnote_jax.retrieval.scann.scann_files import PART, SETTINGS, check_part
from scalingnote_jax.retrieval.scann.scann_library import import_scann
from scalingnote_jax.workflow.artefact import MANIFEST, damaged, read_manifest

REBUILD = "run `scalingnote index` again"
_FORM = {  # of what is relied on, in the manifest
    "count": POSITIVE,
    "dim": POSITIVE,
    "scann": str,
    "store": SHA256,
    "kind": str,
    "settings": SETTINGS,
    "parts": [PART],
    "depths?": [{"k": POSITIVE, "leaves_searched?": POSITIVE, "reorder?": POSITIVE}],
    "changed?": COUNT,
    "built_rows?": COUNT,
}
MANY_QUERIES = 512  # from here on the threads pay for themselves
DEFAULT_K = 10  # documents that a search gives unless it is told otherwise
BATCH = 1024  # queries that a thread takes at once; ScaNN's 256 answer a tenth fewer a second


class ScannIndex:
    """An index in memory: its parts hold the store's rows, one part after the other.

    Attributes:
        manifest: kind ("brute_force" | "ah" | "tree_ah"), settings, count, dim, ScaNN's version,
            the store's fingerprint, parts (folder, rows, files), tuning, target_recall, bytes; and
            where it was tuned, depths: for each k {"k", "leaves_searched" of a tree, "reorder"}.
        parts: ScaNN's searchers.
    """

    def __init__(self, manifest: dict[str, Any], parts: list[Any]):
        self.manifest, self.parts = manifest, parts
        self._leaves = manifest["settings"].get("leaves")
        self.use(manifest.get("depths") or [{"k": DEFAULT_K, **manifest["settings"]}])

    def use(self, depths: list[dict[str, Any]]) -> None:
        """Searches with these leaves and candidates from now on: {"k", "leaves_searched",
        "reorder"} for one or several k, the lowest first.
        """
        self._depths = depths

    def settings_for(self, k: int) -> tuple[int, int | None]:
        """Candidates that a search for k scores again, and leaves that it looks into: those of the
        next higher k that there are settings for. Above the highest, candidates in proportion.
        """
        near = next((d for d in self._depths if d["k"] >= k), self._depths[-1])
        candidates = math.ceil(near.get("reorder", 0) * max(1.0, k / near["k"]))
        return max(k, candidates), near.get("leaves_searched")

    engine = "scann"

    @property
    def kind(self) -> str:
        """ "brute_force", "ah" or "tree_ah"."""
        return str(self.manifest["settings"]["kind"])

    @property
    def sizes(self) -> list[int]:
        """Rows of each part."""
        return [part.size() for part in self.parts]

    def __len__(self) -> int:
        return sum(self.sizes)

    @classmethod
    def open(cls, dir: str | Path, store_fingerprint: str) -> ScannIndex:
        """Loads an index after checking that it is whole and belongs to the store.

        Args:
            dir: the folder that `build_index` wrote.
            store_fingerprint: `VectorStore.fingerprint` of the store whose rows it answers with.

        Raises:
            UserError: a file is missing, cut, changed or foreign (named), the store or ScaNN's
                version is another one, or ScaNN is not installed.
        """
        dir = Path(dir)
        manifest = read_manifest(dir, "index", REBUILD, _FORM)
        owner, parts = manifest["store"], manifest["parts"]
        rows = sum(part["rows"] for part in parts)
        if not parts or rows != manifest["count"]:
            given = f"{rows} rows in the parts, count {manifest['count']}"
            raise damaged(dir / MANIFEST, given, REBUILD)
        for part in parts:
            check_part(dir, part, manifest["dim"], REBUILD)
        if owner != store_fingerprint:
            raise bad_input(
                str(dir),
                f"built from other vectors ({owner[:12]})",
                f"an index of the vectors in use ({store_fingerprint[:12]})",
                REBUILD,
            )
        library = import_scann()
        _check_version(dir, manifest["scann"])
        return cls(manifest, [_load(library, dir, part) for part in parts])

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best documents of each query, as the index finds them, best first.

        A tree may search other leaves for one query than for the same among many: ScaNN compares
        with their centres in another way then (docs/search.md).

        Args:
            queries: [q, D] float32 unit vectors.
            k: documents per query, 1 <= k <= n.

        Returns:
            scores [q, k] float32 (dot products) and rows [q, k] int32; always k of them.

        Raises:
            UserError: k is out of range, the widths differ, or a query holds NaN or is not of
                length 1.
        """
        check_search(queries, (len(self), self.manifest["dim"]), k)
        check_unit(queries, "queries")
        if len(queries) == 0:
            return np.empty((0, k), np.float32), np.empty((0, k), np.int32)
        if len(queries) == 1:
            scores, rows = self.search_one(queries[0], k)
            return scores[None], rows[None]
        queries = np.ascontiguousarray(queries, np.float32)
        return _merge([self._of_part(p, queries, k) for p in self.parts], self.sizes, k)

    def search_one(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """`search` for one query [D], by ScaNN's single-query path: scores [k], rows [k]."""
        check_search(query[None], (len(self), self.manifest["dim"]), k)
        check_unit(query[None], "queries")
        query = np.ascontiguousarray(query, np.float32)
        found = []
        candidates, leaves = self.settings_for(k)
        for part, size in zip(self.parts, self.sizes, strict=True):
            few = min(k, size)
            rows, scores = part.search(query, few, candidates, leaves or -1)
            if len(rows) < few:  # the searched leaves held fewer
                rows, scores = part.search(query, few, candidates, self._leaves or -1)
            found.append((scores[None], rows[None]))
        scores, rows = _merge(found, self.sizes, k)
        return scores[0], rows[0]

    def _of_part(self, part: Any, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows [q, min(k, rows of the part)], rows counted within the part."""
        few = min(k, part.size())
        candidates, leaves = self.settings_for(k)
        rows, scores = self._batched(part, queries, few, candidates, leaves)
        short = np.isnan(scores).any(axis=1)  # the searched leaves held fewer
        if short.any():
            again = self._batched(part, queries[short], few, candidates, self._leaves)
            rows[short], scores[short] = again
        return scores, rows

    def _batched(
        self, part: Any, queries: np.ndarray, k: int, candidates: int, leaves: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        if len(queries) < MANY_QUERIES:
            return part.search_batched(queries, k, candidates, leaves)
        share = math.ceil(len(queries) / (os.cpu_count() or 1))  # of a core
        return part.search_batched_parallel(queries, k, candidates, leaves, min(share, BATCH))


def index_facts(dir: str | Path) -> dict[str, Any]:
    """What an evaluation says of the index, of whichever engine: kind, settings, memory_bytes,
    disk_bytes, tuning, tuned_on, target_recall, depths.
    """
    manifest = read_manifest(Path(dir), "index", REBUILD, {"kind": str})
    names = ("kind", "settings", "memory_bytes", "disk_bytes", "tuning", "tuned_on")
    return {
        name: manifest[name] for name in (*names, "target_recall", "depths") if name in manifest
    }


def _merge(
    found: list[tuple[np.ndarray, np.ndarray]], sizes: list[int], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best k over all parts; equal scores in order of row, as exact search has them."""
    starts = np.cumsum([0, *sizes[:-1]])
    scores = np.concatenate([part_scores for part_scores, _ in found], axis=1)
    rows = np.concatenate(
        [part_rows.astype(np.int64) + s for (_, part_rows), s in zip(found, starts, strict=True)],
        axis=1,
    )
    scores += np.float32(0)  # -0.0 becomes 0.0, to which it is equal
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    best = np.take_along_axis(rows, order, axis=1)
    return np.take_along_axis(scores, order, axis=1), best.astype(np.int32)


def _load(library: Any, dir: Path, part: dict[str, Any]) -> Any:
    """ScaNN's searcher of a part that was checked."""
    folder = dir / part["folder"]
    try:
        searcher = library.load_searcher(str(folder))
        size = searcher.size()
    except Exception as e:  # whatever its C++ says of files that contradict each other
        reason = str(e).strip().partition("\n")[0][:200]
        raise damaged(folder, f"ScaNN cannot load it ({reason})", REBUILD) from e
    if size != part["rows"]:
        raise damaged(folder, f"{size} vectors", REBUILD)
    return searcher


def _check_version(dir: Path, built_with: str) -> None:
    try:
        here = version("scann")
    except PackageNotFoundError:  # an own build of it: nothing to compare with
        return
    if built_with != here:
        raise bad_input(
            str(dir), f"built by ScaNN {built_with}", f"ScaNN {here}, which is installed", REBUILD
        )
