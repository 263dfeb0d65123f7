"""A built dataset, opened: texts by row number, judgements by split, which texts are the same.

Ids and groups are in memory; texts stay in the ArrayRecord files until they are asked for, and
TFDS is imported only then. Not for building it: see `dataset.py`.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np

from scalingnote_jax.data.sources import Document, Qrels, Query
from scalingnote_jax.errors import UserError, bad_input
from scalingnote_jax.files.npy_files import read_npy
from scalingnote_jax.files.typed_json import COUNT, NAME, PATH, SHA256, Each, read_json
from scalingnote_jax.workflow.artefact import MANIFEST, check_files, read_manifest

FORMAT = 2  # part of every dataset's content hash: what reads it is redone too
TFDS_VERSION = "1.0.0"  # of the three TFDS datasets; part of their paths
_REBUILD = "build it with `scalingnote data CONFIG`"
_GROUPS = ("doc_groups.npy", "doc_text_groups.npy", "query_groups.npy")
_FORM = {  # of what is relied on, in the manifest
    "format": COUNT,
    "fingerprint": SHA256,
    "documents": COUNT,
    "queries": COUNT,
    "splits": Each(object, NAME),
    "query_prompts": Each(str),
    "files": Each({"bytes": COUNT, "sha256": SHA256}, PATH),
}
_IDS = {"documents": [str], "queries": [str]}
_READ_ROWS = 1024  # records read at a time when all are wanted: one by one takes twice as long

T = TypeVar("T")


class Collection:
    """Documents, queries and judgements of one built dataset. Made by `Collection.open`.

    Attributes:
        doc_ids, query_ids: in row order; row numbers are the same everywhere in the project.
        documents, queries: lazy sequences in the same order; iterating reads in blocks.
        doc_groups: int32 [documents]; equal numbers: the same title and the same text (`fold`).
        doc_text_groups: int32 [documents]; the same text, whatever the title. A document without
            text counts by its title.
        query_groups: int32 [queries], likewise; a query and a document of the same text have the
            same number here and in `doc_text_groups`.
        splits: the splits that have judgements.
        query_prompts: of a mixture, collection → what stands in front of its queries.
        fingerprint: SHA-256 (hex) of the content.
    """

    def __init__(self, data_dir: Path, manifest: dict[str, Any]):
        ids = read_json(data_dir / "ids.json", _IDS, "the ids as written", _REBUILD)
        self._data_dir = data_dir
        self.doc_ids: list[str] = ids["documents"]
        self.query_ids: list[str] = ids["queries"]
        groups = [read_npy(data_dir / name, _REBUILD, np.int32, 1) for name in _GROUPS]
        self.doc_groups, self.doc_text_groups, self.query_groups = groups
        sizes = (*map(len, groups), manifest["documents"], manifest["queries"])
        docs, queries = len(self.doc_ids), len(self.query_ids)
        if sizes != (docs, docs, queries, docs, queries):
            given = f"{docs} and {queries} ids, where its other files say {sizes}"
            raise bad_input(str(data_dir), given, "documents and queries alike", _REBUILD)
        self.splits: tuple[str, ...] = tuple(manifest["splits"])
        self.query_prompts: dict[str, str] = manifest["query_prompts"]
        self.fingerprint: str = manifest["fingerprint"]
        rows = len(self.doc_ids), len(self.query_ids)
        self.documents = StoredRows(data_dir, "corpus", "train", _document, rows[0])
        self.queries = StoredRows(data_dir, "queries", "train", _query, rows[1])
        self._qrels: dict[str, Qrels] = {}

    @classmethod
    def open(cls, data_dir: Path) -> Collection:
        """Opens what `build_dataset` wrote.

        Sizes of all files are checked, hashes of those that are read here; the records carry
        their own checksums, which are checked when they are read.

        Raises:
            UserError: there is no dataset, it has another format, or a file is damaged.
        """
        data_dir = Path(data_dir)
        path = data_dir / MANIFEST
        found = read_manifest(data_dir, "data CONFIG", _REBUILD, {"format": COUNT})["format"]
        if found != FORMAT:
            raise bad_input(str(path), f"format {found!r}", f"format {FORMAT}", _REBUILD)
        manifest = read_manifest(data_dir, "data", _REBUILD, _FORM)
        entries = [{"file": name, **entry} for name, entry in manifest["files"].items()]
        for entry in entries:
            if ".array_record" in entry["file"]:
                entry["sha256"] = None
        check_files(data_dir, entries, _REBUILD)
        return cls(data_dir, manifest)

    def as_shown(self, doc_prompt: str) -> Collection:
        """The collection as a document tower sees it: with a prompt that does not show the title,
        `doc_groups` are `doc_text_groups`, as documents that differ in their titles are one text.
        """
        shown = copy.copy(self)
        if "{title}" not in doc_prompt:
            shown.doc_groups = self.doc_text_groups
        return shown

    def qrels(self, split: str) -> Qrels:
        """The judgements of a split, all grades. Read once; do not change the answer.

        Raises:
            UserError: the split has no judgements; the message names those that have.
        """
        if split not in self.splits:
            raise bad_input(
                str(self._data_dir),
                f"no judgements in the split {split!r}",
                f"one of {', '.join(self.splits)}",
                "name another split, or add its judgements to the data and build it again",
            )
        if split not in self._qrels:
            self._qrels[split] = dict(StoredRows(self._data_dir, "qrels", split, _judged))
        return self._qrels[split]


class StoredRows(Sequence[T]):
    """Records of one TFDS split by row number, read when asked for; threads may share it."""

    def __init__(
        self,
        data_dir: Path,
        config: str,
        split: str,
        decode: Callable[[Any], T],
        count: int | None = None,
    ):
        """`count`: of the records; None: what is there says it. Of none there is no dataset."""
        self._folder, self._split = data_dir / "retrieval" / config / TFDS_VERSION, split
        self._decode, self._count = decode, count

    def __len__(self) -> int:
        return len(self._source) if self._count is None else self._count

    @overload
    def __getitem__(self, row: int) -> T: ...
    @overload
    def __getitem__(self, row: slice) -> list[T]: ...
    def __getitem__(self, row: int | slice) -> T | list[T]:
        if isinstance(row, slice):
            return self._read(range(*row.indices(len(self))))
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        return self._read([int(row) % len(self)])[0]

    def __iter__(self) -> Iterator[T]:
        for start in range(0, len(self), _READ_ROWS):
            yield from self[start : start + _READ_ROWS]

    def take(self, rows: Sequence[int]) -> list[T]:
        """The records of these rows, in one read: one by one takes ten times as long."""
        return self._read([int(row) for row in rows])

    def _read(self, rows: Sequence[int]) -> list[T]:
        if not rows:
            return []
        try:
            records = self._source.__getitems__(list(rows))
            return [self._decode(record) for record in records]
        except UserError:
            raise
        except Exception as error:  # the checksum of a block of records, or whatever TFDS meets
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> UserError:
        given = f"damaged ({str(error).partition(chr(10))[0][:200]})"
        return bad_input(str(self._folder), given, "the records that were written", _REBUILD)

    @functools.cached_property
    def _source(self) -> Any:
        import tensorflow_datasets as tfds

        try:
            return tfds.builder_from_directory(self._folder).as_data_source(split=self._split)
        except Exception as error:  # of files that do not go together
            raise self._damaged(error) from error


def _document(record: dict[str, bytes]) -> Document:
    return Document(record["id"].decode(), record["title"].decode(), record["text"].decode())


def _query(record: dict[str, bytes]) -> Query:
    return Query(record["id"].decode(), record["text"].decode())


def _judged(record: dict[str, Any]) -> tuple[str, dict[str, int]]:
    grades = dict(
        zip(map(bytes.decode, record["doc_ids"]), map(int, record["grades"]), strict=True)
    )
    return record["query_id"].decode(), grades
