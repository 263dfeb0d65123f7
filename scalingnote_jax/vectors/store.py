"""Vectors on disk: shards, the ids of their rows, and a manifest that vouches for both.

A store is written once and read many times. Opening it checks every size and hash, since a cut or
mixed-up shard gives plausible scores and wrong documents. Not a search engine: `exact.py` and
`scann_index.py` search, by row.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from scalingnote_jax.errors import bad_input
from scalingnote_jax.files.typed_json import POSITIVE, Rule, read_json
from scalingnote_jax.hashing import content_hash
from scalingnote_jax.progress import say
from scalingnote_jax.vectors.rows_on_disk import RowsOnDisk, score_errors, store_as
from scalingnote_jax.workflow.artefact import (
    ENTRY,
    MANIFEST,
    check_files,
    damaged,
    file_entry,
    partial_folder,
    put_in_place,
    read_manifest,
    write_manifest,
)

IDS = "ids.json"
REBUILD = "run `scalingnote run` again, which makes it anew"
_SHARD = {**ENTRY, "rows": POSITIVE}
FORM = {  # of what is relied on, in the manifest
    "count": POSITIVE,
    "dim": POSITIVE,
    "dtype": Rule("float32, bfloat16 or int8", lambda x: x in ("float32", "bfloat16", "int8")),
    "shards": [_SHARD],
    "scales?": [ENTRY],
    "ids": ENTRY,
}


class VectorStore:
    """Unit vectors of one side by one tower, with the id of each row.

    Attributes:
        dir: the folder.
        manifest: count, dim, dtype, shards, ids, and what the writer was given (contract, corpus).
        ids: one id per row, unique.
        dim: D.
        fingerprint: content hash of the manifest, and so of every byte of the store.
    """

    def __init__(self, dir: Path, manifest: dict[str, Any], ids: list[str]):
        self.dir, self.manifest, self.ids = dir, manifest, ids
        self.dim: int = manifest["dim"]
        self.fingerprint = content_hash(manifest)

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def open(cls, dir: str | Path, share: tuple[int, int] = (0, 1)) -> VectorStore:
        """Opens a store after checking every file against the manifest.

        Args:
            share: (i, n) checks every n-th shard from number i on: n processes that open a store
                together need not each read all of it.

        Raises:
            UserError: a file is missing, cut or changed; names the file.
        """
        dir = Path(dir)
        manifest = read_manifest(dir, "encode", REBUILD, FORM)
        all_scales = manifest.get("scales", [])
        if len(all_scales) != (len(manifest["shards"]) if manifest["dtype"] == "int8" else 0):
            given = f"{len(all_scales)} scales of {len(manifest['shards'])} shards"
            raise damaged(dir / MANIFEST, given, REBUILD)
        shards, scales = manifest["shards"][share[0] :: share[1]], all_scales[share[0] :: share[1]]
        check_files(dir, [*shards, *scales, manifest["ids"]], REBUILD)
        ids = read_json(dir / manifest["ids"]["file"], [str], "a list of ids", REBUILD)
        rows = sum(shard["rows"] for shard in manifest["shards"])
        if (manifest["count"], rows) != (len(ids), len(ids)):
            raise bad_input(
                str(dir / MANIFEST),
                f"count {manifest['count']}, {rows} rows in the shards, {len(ids)} ids",
                "three equal numbers",
                REBUILD,
            )
        RowsOnDisk.open(dir, manifest, REBUILD)  # each array as the manifest says
        return cls(dir, manifest, ids)

    def vectors(self) -> np.ndarray:
        """[n, D] float32: memory-mapped if it is one shard of float32, made in memory otherwise."""
        rows = self.on_disk()
        if self.manifest["dtype"] == "float32" and len(rows.parts) == 1:
            return rows.parts[0]
        return rows[:]

    def on_disk(self) -> RowsOnDisk:
        """[n, D] float32, of which only the slices that are asked for are read."""
        return RowsOnDisk.open(self.dir, self.manifest, REBUILD)


class StoreWriter:
    """Writes a store into `<dir>.partial`, and renames it to `dir` on `close`.

    As a context manager it removes the partial folder when the block raises.

    Args:
        dir: the final folder; one that is there is replaced on `close`, not before.
        dim: D.
        manifest_extra: goes into the manifest as it is ("contract", "corpus").
        shard_rows: rows per .npy file.
        dtype: as `EncodeConfig.store_dtype`.
    """

    def __init__(
        self,
        dir: str | Path,
        dim: int,
        manifest_extra: dict[str, Any],
        shard_rows: int,
        dtype: str = "float32",
    ):
        self.dtype, self._errors = dtype, [0.0, 0.0]  # sum and largest over rows
        self._scales: list[dict[str, Any]] = []
        self.dir, self.dim, self.extra, self.shard_rows = Path(dir), dim, manifest_extra, shard_rows
        self._partial = partial_folder(self.dir)
        self._ids: list[str] = []
        self._seen: set[str] = set()
        self._waiting: list[np.ndarray] = []
        self._shards: list[dict[str, Any]] = []

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is not None:
            shutil.rmtree(self._partial, ignore_errors=True)

    def add(self, ids: list[str], vectors: np.ndarray) -> None:
        """Appends rows.

        Args:
            ids: one per row, never seen before.
            vectors: [len(ids), D] float32, finite.
        """
        vectors = np.asarray(vectors)
        if vectors.shape != (len(ids), self.dim) or vectors.dtype != np.float32:
            wanted = f"({len(ids)}, {self.dim}) float32"
            raise ValueError(f"vectors are {vectors.shape} {vectors.dtype}, not {wanted}")
        self._check_rows(ids, vectors)
        self._ids += ids
        self._waiting.append(vectors.copy())
        while sum(map(len, self._waiting)) >= self.shard_rows:
            self._write_shard()

    def close(self) -> VectorStore:
        """Writes the rest and the manifest, puts the folder in its place and opens it."""
        if not self._ids:
            raise bad_input(
                str(self.dir), "no vectors", "at least one", "check that the corpus has texts"
            )
        if any(map(len, self._waiting)):
            self._write_shard()
        (self._partial / IDS).write_text(
            json.dumps(self._ids, ensure_ascii=False), encoding="utf-8"
        )
        manifest = {
            **self.extra,
            "count": len(self._ids),
            "dim": self.dim,
            "dtype": self.dtype,
            "shards": self._shards,
            **self._loss(),
            "ids": file_entry(self._partial / IDS),
        }
        write_manifest(self._partial, manifest)
        put_in_place(self._partial, self.dir)
        return VectorStore.open(self.dir)

    def _loss(self) -> dict[str, Any]:
        """What the manifest says of a smaller dtype: by how much a score with a unit query is off
        at most, over the mean and the worst document.
        """
        if self.dtype == "float32":
            return {}
        mean, worst = self._errors[0] / len(self._ids), self._errors[1]
        say(f"{self.dir.name}: {self.dtype}, scores off by under {mean:.2g}, worst {worst:.2g}")
        scales = {"scales": self._scales} if self._scales else {}
        return {"loss": {"mean_score_error": mean, "max_score_error": worst}, **scales}

    def _check_rows(self, ids: list[str], vectors: np.ndarray) -> None:
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            raise bad_input(
                str(self.dir),
                f"the vector of {ids[row]!r} (row {len(self._ids) + row}) holds NaN or infinity",
                "finite numbers",
                "the tower's weights are broken: train again with a lower learning rate",
            )
        for name in ids:
            if name in self._seen:
                raise bad_input(
                    str(self.dir), f"id {name!r} twice", "unique ids", "remove the duplicate"
                )
            self._seen.add(name)

    def _write_shard(self) -> None:
        rows = np.concatenate(self._waiting)
        shard, rest = rows[: self.shard_rows], rows[self.shard_rows :]
        path = self._partial / f"vectors-{len(self._shards):05d}.npy"
        stored, scale = store_as(shard, self.dtype)
        np.save(path, stored)
        if scale is not None:
            scale_path = self._partial / f"scales-{len(self._shards):05d}.npy"
            np.save(scale_path, scale)
            self._scales.append(file_entry(scale_path))
        if self.dtype != "float32":
            errors = score_errors(shard, self.dtype)
            self._errors[0] += float(errors.sum())
            self._errors[1] = max(self._errors[1], float(errors.max()))
        self._shards.append({**file_entry(path), "rows": len(shard)})
        self._waiting = [rest]
