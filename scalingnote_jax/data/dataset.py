"""From a source of raw texts to a folder that the rest of the project reads.

    <data_dir>/retrieval/{corpus,queries,qrels}/1.0.0/   TFDS datasets in ArrayRecord
    <data_dir>/ids.json, doc_groups.npy, doc_text_groups.npy, query_groups.npy
    <data_dir>/manifest.json                             counts, fingerprint, sizes and hashes

Everything is checked before the first byte is written, and the folder gets its name last. For
reading it see `collection.py`.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from scalingnote_jax.config import DataConfig
from scalingnote_jax.config.forms.mixture_entry import prompts
from scalingnote_jax.data.collection import FORMAT, Collection
from scalingnote_jax.data.sources import Document, Qrels, Query, Source, open_source
from scalingnote_jax.data.survey import Survey, survey
from scalingnote_jax.errors import bad_input
from scalingnote_jax.hashing import file_hash
from scalingnote_jax.progress import Bar, progress
from scalingnote_jax.version import __version__
from scalingnote_jax.workflow.artefact import (
    MANIFEST,
    partial_folder,
    put_in_place,
    write_manifest,
)

__all__ = ["Collection", "build_dataset"]

Record = TypeVar("Record", Document, Query)


def build_dataset(cfg: DataConfig, data_dir: Path) -> None:
    """Checks the source that `cfg` names and writes it to `data_dir`, over an earlier dataset.

    Raises:
        UserError: the source is not as it should be, or `data_dir` holds something else. Then
            nothing is written, and an earlier dataset stays.
    """
    data_dir = Path(data_dir)
    if data_dir.is_file() or (any(data_dir.glob("*")) and not (data_dir / MANIFEST).is_file()):
        raise bad_input(
            str(data_dir),
            f"there is something else (no {MANIFEST} in it)",
            "an empty or missing folder, or an earlier dataset",
            "name another --workdir, or move it away",
        )
    source = open_source(cfg)
    found = survey(source, cfg)
    partial = partial_folder(data_dir)
    try:
        _write(source, found, prompts(cfg, "query_prompts"), partial)
        put_in_place(partial, data_dir)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def content(data_dir: Path) -> str:
    """The content hash of a dataset."""
    return Collection.open(data_dir).fingerprint


def source_hash(settings: Any) -> list[str]:
    """What a dataset is made from beside the config: the source's content, this version and the
    dataset's format.
    """
    return [open_source(settings.data).fingerprint(), __version__, f"format {FORMAT}"]


def _write(source: Source, found: Survey, query_prompts: dict[str, str], folder: Path) -> None:

    total = len(found.doc_ids) + len(found.query_ids) + sum(map(len, found.qrels.values()))
    with progress("write dataset", total=total, unit="records") as bar:
        if found.doc_ids:
            _write_records(source, found, folder, bar)
    ids = {"documents": found.doc_ids, "queries": found.query_ids}
    (folder / "ids.json").write_text(json.dumps(ids), encoding="utf-8")
    np.save(folder / "doc_groups.npy", found.groups.docs)
    np.save(folder / "doc_text_groups.npy", found.groups.doc_texts)
    np.save(folder / "query_groups.npy", found.groups.queries)
    manifest = _manifest(found, folder) | {"query_prompts": query_prompts}
    write_manifest(folder, manifest)


def _write_records(source: Source, found: Survey, folder: Path, bar: Bar) -> None:
    from scalingnote_jax.data import tfds_builder

    kept = (d for d in source.documents() if d.id not in found.dropped)
    documents = map(asdict, _same(kept, found.doc_ids))
    tfds_builder.write("corpus", folder, {"train": _counted(documents, bar)})
    queries = map(asdict, _same(source.queries(), found.query_ids))
    tfds_builder.write("queries", folder, {"train": _counted(queries, bar)})
    judged = {split: _counted(_judged(qrels), bar) for split, qrels in found.qrels.items()}
    tfds_builder.write("qrels", folder, judged)


def _manifest(found: Survey, folder: Path) -> dict[str, Any]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {
        "format": FORMAT,
        "fingerprint": found.fingerprint,
        "documents": len(found.doc_ids),
        "queries": len(found.query_ids),
        "splits": {
            split: {"queries": len(qrels), "pairs": sum(map(len, qrels.values()))}
            for split, qrels in found.qrels.items()
        },
        "files": {
            p.relative_to(folder).as_posix(): {"bytes": p.stat().st_size, "sha256": file_hash(p)}
            for p in files
        },
    }


def _judged(qrels: Qrels) -> Iterator[dict[str, Any]]:
    for query_id, grades in qrels.items():
        yield {"query_id": query_id, "doc_ids": list(grades), "grades": list(grades.values())}


def _same(records: Iterator[Record], ids: list[str]) -> Iterator[Record]:
    """The records, as long as they are those that were checked."""
    for record, checked_id in itertools.zip_longest(records, ids):
        if record is None or record.id != checked_id:
            given = f"record {record and record.id!r} where {checked_id!r} was a moment ago"
            expected = "files that do not change while they are read"
            raise bad_input("--data.path", given, expected, "run again when they are complete")
        yield record


def _counted(records: Iterable[dict[str, Any]], bar: Bar) -> Iterator[dict[str, Any]]:
    for record in records:
        yield record
        bar.advance(1)
