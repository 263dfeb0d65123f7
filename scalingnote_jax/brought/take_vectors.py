"""Document vectors that others have made, put where `encode` puts its own: checked, of length 1, in
the order of the collection. They are streamed: beside the ids a block of rows is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from scalingnote_jax.brought.same_space import FEW, agreement
from scalingnote_jax.brought.vector_files import VectorFile, files_hash, open_vectors
from scalingnote_jax.config import EncodeConfig
from scalingnote_jax.config.towers import BY_VECTORS
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.tower import tower_def
from scalingnote_jax.progress import progress, say
from scalingnote_jax.vectors.encoder import load_encoder
from scalingnote_jax.vectors.store import StoreWriter
from scalingnote_jax.vectors.trained import RunTowers, TrainedTower
from scalingnote_jax.workflow.engine import Place

FIELD = "--encode.vectors"
_SAME_LENGTH = 1e-3  # of a length: more than the rounding of half precision makes
_NAMED = 3  # ids in a message


@dataclass
class _Lengths:
    """The lengths of the vectors as they came."""

    place: str
    low: float = np.inf
    high: float = 0.0
    others: int = 0

    def unit(self, rows: np.ndarray, ids: list[str]) -> np.ndarray:
        """The rows divided by their lengths.

        Raises:
            UserError: a row holds NaN or infinity, or has no direction.
        """
        lengths = np.linalg.norm(rows, axis=1)
        for wrong, given in (
            (~np.isfinite(lengths), "holds NaN or infinity"),
            (lengths == 0, "is all zeros, which has no direction"),
        ):
            if wrong.any():
                name = ids[int(np.argmax(wrong))]
                fix = "leave the document out, or make its vector again"
                raise bad_input(self.place, f"the vector of {name!r} {given}", "a vector", fix)
        self.low, self.high = min(self.low, lengths.min()), max(self.high, lengths.max())
        self.others += int((np.abs(lengths - 1) > _SAME_LENGTH).sum())
        return rows / lengths[:, None]

    def tell(self, count: int) -> None:
        if self.others:
            say(
                f"encode: {self.others} of {count} vectors had another length than 1 "
                f"({self.low:.4g} to {self.high:.4g}): each was divided by it, as search is by "
                "cosine; an index by inner product ranked them otherwise"
            )


@dataclass
class _Order:
    """Rows of the files in the order in which they are stored.

    Attributes:
        ids: of the rows to store, in order.
        rows: where each lies in the files; None: as it is there.
    """

    ids: list[str]
    rows: np.ndarray | None = field(default=None)


def content(settings: Any) -> str:
    """What imported vectors are made from: the content of their files."""
    return files_hash(settings.encode.vectors, FIELD)


def take_vectors(
    cfg: EncodeConfig, towers: RunTowers, collection: Collection, place: Place
) -> None:
    """Writes the vectors of `cfg.vectors` into `place.folder`, as `encode` would.

    Args:
        towers: of the teacher that they belong to, as far as they are here.
        collection: whose documents they are of; without documents, all vectors are taken.

    Raises:
        UserError: vectors of another width, a document without a vector, or a row that is none.
    """
    query = towers.teacher.query
    given = open_vectors(cfg.vectors, FIELD)
    if query.weights != BY_VECTORS and (dim := tower_def(query, "teacher.query").dim) != given.dim:
        fix = "name the vectors of this teacher, or its query tower"
        raise bad_input(given.place, f"vectors of {given.dim} numbers", f"the tower's {dim}", fix)
    wanted = cfg.dim or given.dim
    if wanted > given.dim:
        raise bad_input("--encode.dim", str(wanted), f"at most {given.dim}", "lower it")
    order, tower = _order(given, collection), towers.get("teacher", "doc")
    if tower.cfg.weights != BY_VECTORS and collection.doc_ids:
        _compare(given, tower, collection, cfg, place.mesh)
    if not mesh_lib.first_process():
        return
    manifest = {
        "checkpoint": tower.identity,
        "corpus": collection.fingerprint,
        "normalised": True,
        "brought": {"files": files_hash(cfg.vectors, FIELD), "dim": given.dim},
    }
    lengths, done = _Lengths(given.place), 0
    spool = place.folder.with_name(f"{place.folder.name}.spool.npy")
    try:
        with (
            progress("import vectors", total=len(order.ids), unit="vectors") as bar,
            StoreWriter(place.folder, wanted, manifest, cfg.shard_rows, cfg.store_dtype) as writer,
        ):
            for rows in _blocks(given, order, spool):
                ids = order.ids[done : done + len(rows)]
                whole = lengths.unit(rows, ids)
                writer.add(ids, whole if wanted == given.dim else _cut(whole, wanted))
                done += len(rows)
                bar.advance(len(rows))
            writer.close()
    finally:
        spool.unlink(missing_ok=True)
    lengths.tell(done)


def _compare(
    given: VectorFile,
    tower: TrainedTower,
    collection: Collection,
    cfg: EncodeConfig,
    mesh: Mesh,
) -> None:
    """The document tower is here as well: the first vectors must be those that it gives."""
    first = next(given.blocks())[:FEW]
    places = {name: row for row, name in enumerate(collection.doc_ids)}
    rows = [(at, places[name]) for at, name in enumerate(given.ids[: len(first)]) if name in places]
    if not rows:
        return
    documents = collection.documents.take([row for _, row in rows])
    texts = [(d.title, d.text) for d in documents]
    encoder = load_encoder(tower, cfg, mesh)
    vectors = first[[at for at, _ in rows]]
    agreement(given.place, "documents", vectors, lambda: encoder.encode(texts))


def _cut(rows: np.ndarray, dim: int) -> np.ndarray:
    rows = rows[:, :dim]
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _order(given: VectorFile, collection: Collection) -> _Order:
    wanted = collection.doc_ids
    if not wanted or wanted == given.ids:
        return _Order(given.ids)
    places = {name: row for row, name in enumerate(given.ids)}
    missing = [name for name in wanted if name not in places]
    if missing:
        named = ", ".join(map(repr, missing[:_NAMED]))
        given_ids = f"{len(missing)} of {len(wanted)} documents have no vector, such as {named}"
        fix = f"add them; ids there look like {given.ids[0]!r}"
        raise bad_input(given.place, given_ids, "a vector for each document", fix)
    if left := len(given.ids) - len(wanted):
        say(f"encode: {left} vectors are of no document of the collection: left out")
    return _Order(wanted, np.array([places[name] for name in wanted], np.int64))


def _blocks(given: VectorFile, order: _Order, spool: Path) -> Iterator[np.ndarray]:
    """The rows to store, a block at a time; in another order they go through a file."""
    if order.rows is None:
        yield from given.blocks()
        return
    spool.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(given.ids), given.dim)
    whole = np.lib.format.open_memmap(spool, mode="w+", dtype=np.float32, shape=shape)
    start = size = 0
    for block in given.blocks():
        whole[start : start + len(block)] = block
        start, size = start + len(block), max(size, len(block))
    for first in range(0, len(order.rows), size):
        yield whole[order.rows[first : first + size]]
