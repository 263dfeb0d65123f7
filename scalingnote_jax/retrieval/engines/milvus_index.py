"""Milvus as the index: a file (Milvus Lite, inside this process) or a server or cluster by its URL,
for more vectors than one machine holds. The vectors are loaded into a collection named by their
store, with the row as primary key, so two workdirs never meet in one server.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scalingnote_jax.errors import UserError, bad_input
from scalingnote_jax.progress import progress
from scalingnote_jax.retrieval.engines.vector_index import REBUILD, check_owner
from scalingnote_jax.retrieval.exact import check_search, check_unit
from scalingnote_jax.vectors.store import VectorStore

LITE_FILE = "milvus.db"  # in the index's folder, where no `index.uri` is given
ROWS = 2000  # vectors in one insert: below the 64 MB of a request up to D = 8192
ROW, VECTOR = "row", "vector"
REORDER = 20  # times k: candidates that a SCANN index scores again


class MilvusIndex:
    """A collection that is loaded, and the client that asks it."""

    engine = "milvus"

    def __init__(self, manifest: dict[str, Any], client: Any):
        self.manifest, self._client = manifest, client

    @classmethod
    def open(cls, dir: Path, manifest: dict[str, Any], store: VectorStore) -> MilvusIndex:
        """
        Raises:
            UserError: it is of another store, or Milvus has no such collection.
        """
        check_owner(dir, manifest, store.fingerprint)
        where = _place(dir, manifest["uri"])
        if not manifest["uri"] and not Path(where).exists():
            raise bad_input(where, "not there", "Milvus Lite's file", REBUILD)
        client = connect(where)
        name = manifest["collection"]
        with _speaking(where):
            count = client.has_collection(name) and _count(client, name)
        if count != manifest["count"]:
            given = f"{count or 'no'} vectors in the collection {name}"
            raise bad_input(where, given, f"{manifest['count']}", REBUILD)
        with _speaking(where):
            client.load_collection(name)
        return cls(manifest, client)

    def __len__(self) -> int:
        return int(self.manifest["count"])

    @property
    def kind(self) -> str:
        """Milvus's name of the index type."""
        return str(self.manifest["kind"])

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `VectorIndex.search`."""
        check_search(queries, (len(self), self.manifest["dim"]), k)
        check_unit(queries, "queries")
        if not len(queries):
            return np.empty((0, k), np.float32), np.empty((0, k), np.int32)
        params = dict(self.manifest["settings"].get("search", {}))
        if self.kind == "SCANN":
            params["reorder_k"] = REORDER * k
        with _speaking(self.manifest["uri"] or LITE_FILE):
            found = self._client.search(
                self.manifest["collection"],
                data=np.asarray(queries, np.float32).tolist(),
                limit=k,
                search_params={"metric_type": "IP", "params": params},
                consistency_level="Strong",
            )
        if any(len(hits) < k for hits in found):
            fix = "ask for fewer, or raise nprobe in the index's manifest"
            raise bad_input("milvus", f"fewer than {k} documents", f"{k}", fix)
        rows = [[hit[ROW] if ROW in hit else hit["id"] for hit in hits] for hits in found]
        scores = [[hit["distance"] for hit in hits] for hits in found]
        return np.array(scores, np.float32), np.array(rows, np.int32)


def build_milvus(store: VectorStore, uri: str, folder: Path) -> dict[str, Any]:
    """Loads a store's vectors; an earlier collection of the same store is replaced. Returns the
    manifest.

    Args:
        uri: as `IndexConfig.uri`.
        folder: of the index.

    Raises:
        UserError: Milvus is not installed, not reachable, or refuses.
    """
    where, name = _place(folder, uri), f"scalingnote_{store.fingerprint[:24]}"
    is_server = "://" in where
    client = connect(where)
    from pymilvus import DataType

    settings = _settings(len(store), is_server)
    with _speaking(where):
        if client.has_collection(name):
            client.drop_collection(name)
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(ROW, DataType.INT64, is_primary=True)
        schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=store.dim)
        params = client.prepare_index_params()
        given = settings["kind"], "IP"
        params.add_index(
            VECTOR, index_type=given[0], metric_type=given[1], params=settings["build"]
        )
        client.create_collection(name, schema=schema, index_params=params)
        with progress("milvus", total=len(store), unit="vectors") as bar:
            for batch in _batches(store):
                client.insert(name, batch)
                bar.advance(len(batch))
        client.flush(name)
    client.close()
    if not is_server:  # its lock goes with the file, which is going to be moved
        from milvus_lite.server_manager import server_manager_instance

        server_manager_instance.release_server(where)
    head = {"engine": "milvus", "kind": settings["kind"], "settings": settings, "uri": uri}
    head |= {"collection": name, "count": len(store), "dim": store.dim, "parts": []}
    return head | {"store": store.fingerprint}


def connect(where: str) -> Any:
    """A client of Milvus.

    Args:
        where: a file's path, or a URL.

    Raises:
        UserError: pymilvus is not installed, or nobody answers there.
    """
    try:
        from pymilvus import MilvusClient
    except ImportError as e:
        fix = "pip install 'scalingnote_jax[milvus]'"
        raise bad_input("--index.engine", f"milvus: {e.name} is not installed", "it", fix) from e
    with _speaking(where):
        return MilvusClient(where)


def _place(folder: Path, uri: str) -> str:
    return uri or str(folder.resolve() / LITE_FILE)


def _count(client: Any, name: str) -> int:
    client.load_collection(name)
    found = client.query(name, output_fields=["count(*)"], consistency_level="Strong")
    return int(found[0]["count(*)"])


def _settings(n: int, is_server: bool) -> dict[str, Any]:
    """Milvus Lite scores every vector; a server takes ScaNN's leaves and hashes."""
    if not is_server:
        return {"kind": "FLAT", "build": {}, "search": {}}
    leaves = min(max(round(4 * math.sqrt(n)), 1), 65536)
    return {
        "kind": "SCANN",
        "build": {"nlist": leaves, "with_raw_data": True},
        "search": {"nprobe": max(1, leaves // 8)},
    }


def _batches(store: VectorStore) -> Iterator[list[dict[str, Any]]]:
    rows = store.on_disk()
    for start in range(0, len(store), ROWS):
        vectors = rows[start : min(start + ROWS, len(store))]
        yield [{ROW: start + i, VECTOR: vector.tolist()} for i, vector in enumerate(vectors)]


class _speaking:
    """Turns what pymilvus raises into one line."""

    def __init__(self, where: str):
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, UserError):
            reason = str(getattr(error, "message", error)).strip().partition("\n")[0][:300]
            fix = "look at --index.uri and at the server"
            raise bad_input(self._where, f"Milvus says: {reason}", "an answer", fix) from error
