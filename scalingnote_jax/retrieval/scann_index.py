"""The ScaNN index over a vector store: built once, checked on opening, answering with rows.

ScaNN writes into `scann/`: its own float32 copy of the vectors (`dataset.npy`), the hashed ones,
the codebook, the partitioner. Its loader ends the whole process when one of them is missing, so the
manifest's names, sizes and hashes are checked first. Ids stay in the vector store. Two builds
differ in their bytes, since ScaNN draws its own random starts.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from scalingnote_jax.config import IndexConfig
from scalingnote_jax.errors import bad_input
from scalingnote_jax.retrieval.exact import check_search
from scalingnote_jax.retrieval.store import (
    MANIFEST,
    VectorStore,
    check_files,
    damaged,
    file_entry,
    partial_folder,
    put_in_place,
    read_manifest,
    write_manifest,
)

FILES = "scann"
REBUILD = "run `scalingnote index` again"
FEWEST_HASHED = 16  # asymmetric hashing learns 16 centres a block: it cannot from fewer vectors
SOAR_LAMBDA = 1.5  # a second leaf for each vector, so chosen that both are seldom missed together
MANY_QUERIES = 512  # from here on the threads pay for themselves


def build_index(store: VectorStore, cfg: IndexConfig, out_dir: str | Path) -> None:
    """Builds the index of a store's vectors and writes it to `out_dir`, replacing what is there.

    The kind follows the rules of thumb in ScaNN's docs/algorithms.md: brute force for few vectors,
    hashing with reordering for more, and a tree of sqrt(n) leaves in front of that for many; the
    two limits are in the config.

    Raises:
        UserError: ScaNN is not installed, or an option is out of range.
    """
    _check_options(cfg)
    scann = _import_scann()
    out_dir = Path(out_dir)
    settings = _settings(len(store), cfg)
    searcher = _build(scann, np.ascontiguousarray(store.vectors()), settings)
    partial = partial_folder(out_dir)
    try:
        (partial / FILES).mkdir()
        # Relative paths inside, so that the folder can be moved.
        searcher.serialize(str(partial / FILES), True)
        manifest = {
            "kind": settings["kind"],
            "settings": settings,
            "count": len(store),
            "dim": store.dim,
            "scann": version("scann"),
            "store": store.fingerprint,
            "files": [file_entry(path) for path in sorted((partial / FILES).iterdir())],
        }
        write_manifest(partial, manifest)
        put_in_place(partial, out_dir)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


class ScannIndex:
    """An index in memory.

    Attributes:
        manifest: kind ("brute_force" | "ah" | "tree_ah"), settings, count, dim, ScaNN's version,
            the store's fingerprint, files.
    """

    def __init__(self, manifest: dict[str, Any], searcher: Any):
        self.manifest = manifest
        self._searcher = searcher
        self._leaves = manifest["settings"].get("leaves")
        self._reorder = manifest["settings"].get("reorder", 0)

    def __len__(self) -> int:
        return self.manifest["count"]

    @classmethod
    def open(cls, dir: str | Path, store_fingerprint: str) -> ScannIndex:
        """Loads an index after checking that it is whole and belongs to the store.

        Args:
            dir: the folder that `build_index` wrote.
            store_fingerprint: `VectorStore.fingerprint` of the store whose rows it answers with.

        Raises:
            UserError: a file is missing, cut, changed or foreign (named), the store is another
                one, or ScaNN is not installed.
        """
        dir = Path(dir)
        manifest = read_manifest(dir, "index", REBUILD)
        try:
            owner, entries = manifest["store"], manifest["files"]
            check_files(dir / FILES, entries, REBUILD)
            names = {entry["file"] for entry in entries}
            manifest["settings"]["kind"], manifest["count"], manifest["dim"]
        except (KeyError, TypeError) as e:
            raise damaged(dir / MANIFEST, f"no usable field {e}", REBUILD) from e
        if owner != store_fingerprint:
            raise bad_input(
                str(dir),
                f"built from other vectors ({owner[:12]})",
                f"an index of the vectors in use ({store_fingerprint[:12]})",
                REBUILD,
            )
        for path in sorted((dir / FILES).iterdir()):
            if path.name not in names:  # the loader would unpickle a scann_docids.pkl
                raise damaged(path, "a file that the index did not write", REBUILD)
        return cls(manifest, _import_scann().load_searcher(str(dir / FILES)))

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best documents of each query, as the index finds them, best first.

        Args:
            queries: [q, D] float32 unit vectors.
            k: documents per query, 1 <= k <= n.

        Returns:
            scores [q, k] float32 (dot products) and rows [q, k] int32; always k of them.

        Raises:
            UserError: k is out of range.
            ValueError: the shapes do not fit.
        """
        check_search(queries, (len(self), self.manifest["dim"]), k)
        if len(queries) == 0:
            return np.empty((0, k), np.float32), np.empty((0, k), np.int32)
        queries = np.ascontiguousarray(queries, np.float32)
        rows, scores = self._batched(queries, k, None)
        short = np.isnan(scores).any(axis=1)  # the searched leaves held fewer than k
        if short.any():
            rows[short], scores[short] = self._batched(queries[short], k, self._leaves)
        return scores, rows.astype(np.int32)

    def search_one(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """`search` for one query [D], by ScaNN's single-query path: scores [k], rows [k]."""
        check_search(query[None], (len(self), self.manifest["dim"]), k)
        query = np.ascontiguousarray(query, np.float32)
        candidates = max(k, self._reorder)
        rows, scores = self._searcher.search(query, k, candidates)
        if len(rows) < k:
            rows, scores = self._searcher.search(query, k, candidates, self._leaves)
        return scores, rows.astype(np.int32)

    def _batched(
        self, queries: np.ndarray, k: int, leaves: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        many = len(queries) >= MANY_QUERIES
        run = self._searcher.search_batched_parallel if many else self._searcher.search_batched
        return run(queries, k, max(k, self._reorder), leaves)


def _settings(n: int, cfg: IndexConfig) -> dict[str, Any]:
    """The kind of index for n vectors, with every number that was chosen for it."""
    if n < max(cfg.exact_below, FEWEST_HASHED):
        return {"kind": "brute_force"}
    hashed = {
        "kind": "ah",
        "dimensions_per_block": 2,
        "anisotropic_quantization_threshold": 0.2,
        "reorder": min(cfg.reorder, n),
    }
    if n <= cfg.partition_above:
        return hashed
    leaves = round(math.sqrt(n))
    searched = math.ceil(leaves * cfg.search_percent / 100)
    tree = {"leaves": leaves, "leaves_searched": searched, "soar_lambda": SOAR_LAMBDA}
    return hashed | tree | {"kind": "tree_ah"}


def _build(scann: Any, vectors: np.ndarray, settings: dict[str, Any]) -> Any:
    default_k = min(10, len(vectors))  # each search says its own k
    builder = scann.builder(vectors, default_k, "dot_product")
    builder.set_n_training_threads(os.cpu_count() or 1)
    if settings["kind"] == "brute_force":
        builder.score_brute_force()
    else:
        if settings["kind"] == "tree_ah":
            builder.tree(
                settings["leaves"],
                settings["leaves_searched"],
                spherical=True,  # the vectors are unit vectors: so are the centres
                soar_lambda=settings["soar_lambda"],
            )
        builder.score_ah(
            settings["dimensions_per_block"],
            anisotropic_quantization_threshold=settings["anisotropic_quantization_threshold"],
        )
        builder.reorder(settings["reorder"])
    with _log_shown_on_failure():
        return builder.build()


def _check_options(cfg: IndexConfig) -> None:
    if not 0 < cfg.search_percent <= 100:
        raise bad_input(
            "--index.search_percent", f"{cfg.search_percent:g}", "over 0, up to 100", "10 is usual"
        )
    if cfg.reorder < 1:
        raise bad_input("--index.reorder", str(cfg.reorder), "at least 1", "200 is usual")


def _import_scann() -> Any:
    """ScaNN's numpy interface.

    Its package imports TensorFlow when it finds one, which takes seconds and has clashed over
    symbols: hidden meanwhile.
    """
    hide = "tensorflow" not in sys.modules
    if hide:
        sys.modules["tensorflow"] = None  # type: ignore[assignment]
    try:
        from scann.scann_ops.py import scann_ops_pybind
    except ImportError as e:
        raise bad_input(
            "scann",
            f"cannot be imported ({e})",
            "ScaNN for Linux on x86-64",
            "pip install 'scalingnote_jax[index]'",
        ) from e
    finally:
        if hide:
            del sys.modules["tensorflow"]
    return scann_ops_pybind


@contextmanager
def _log_shown_on_failure() -> Iterator[None]:
    """Holds back what ScaNN's C++ code logs to stderr, and shows it only if the block raises."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
