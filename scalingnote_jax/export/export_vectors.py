"""The document vectors of a workdir with their ids, in the forms that other search engines load.
Not for towers: `export_towers.py`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.weights.beside.own_export import CONTRACT
from scalingnote_jax.progress import Bar, progress, say
from scalingnote_jax.retrieval.texts import CollectionTexts, texts_of
from scalingnote_jax.vectors.store import VectorStore
from scalingnote_jax.version import __version__
from scalingnote_jax.workflow.artefact import partial_folder, put_in_place
from scalingnote_jax.workflow.workdir import Workdir

PART_ROWS = 100_000  # of a file
BLOCK_ROWS = 8192


@dataclass(frozen=True)
class _Exported:
    """What is written.

    Attributes:
        store: the vectors and their ids.
        texts: of the documents, for their titles.
        folder: to write to.
        bar: of the rows.
    """

    store: VectorStore
    texts: CollectionTexts
    folder: Path
    bar: Bar

    def blocks(self, first: int, last: int) -> Iterator[tuple[list[str], np.ndarray, list[str]]]:
        """Ids, vectors [b, D] float32 and titles, of rows `first` to `last`."""
        rows = self.store.on_disk()
        for start in range(first, last, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, last)
            ids = self.store.ids[start:stop]
            titles = [title for title, _ in texts_of(self.texts, ids)]
            yield ids, rows[start:stop], titles
            self.bar.advance(stop - start)

    def parts(self) -> Iterator[tuple[int, int, int]]:
        """Number, first and last row of each file."""
        for number, start in enumerate(range(0, len(self.store), PART_ROWS)):
            yield number, start, min(start + PART_ROWS, len(self.store))


def export_vectors(root: Path, kind: str, out: Path, overwrite: bool) -> None:
    """Exports the vectors that the workdir's index is over, unit vectors as they are searched.

    Args:
        kind: of `FORMATS`.

    Raises:
        UserError: the vectors are not there, or `out` is something else.
    """
    if out.exists() and not (overwrite and (out / CONTRACT).is_file()):
        fix = "add --overwrite" if (out / CONTRACT).is_file() else "name another folder"
        raise bad_input(str(out), "is there already", "a new folder, or an export", fix)
    workdir = Workdir(root)
    store = VectorStore.open(workdir.embeddings("teacher", "doc"))
    texts = CollectionTexts(Collection.open(workdir.data))
    partial = partial_folder(out)
    try:
        with progress(f"export ({kind})", total=len(store), unit="vectors") as bar:
            FORMATS[kind](_Exported(store, texts, partial, bar))
        about = {"count": len(store), "dim": store.dim, "teacher": store.manifest["checkpoint"]}
        said = {"format": kind, "scalingnote_jax": __version__, "vectors": about}
        (partial / CONTRACT).write_text(json.dumps(said, indent=1) + "\n")
        put_in_place(partial, out)
    except OSError as e:
        expected = "a folder that can be written, on a disk with room"
        raise bad_input(str(out), str(e), expected, "choose another") from e
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    say(f"export: {len(store)} document vectors of {store.dim} numbers → {out}")


def _parquet(exported: _Exported) -> None:
    """Columns id, vector (list of float) and title: also the layout of Milvus's bulk import."""
    import pyarrow
    import pyarrow.parquet

    kinds = {"id": pyarrow.string(), "vector": pyarrow.list_(pyarrow.float32())}
    schema = pyarrow.schema(kinds | {"title": pyarrow.string()})
    for number, start, stop in exported.parts():
        path = exported.folder / f"part-{number:05d}.parquet"
        with pyarrow.parquet.ParquetWriter(path, schema) as writer:
            for ids, rows, titles in exported.blocks(start, stop):
                ends = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
                vectors = pyarrow.ListArray.from_arrays(ends, np.ascontiguousarray(rows).ravel())
                arrays = [pyarrow.array(ids), vectors, pyarrow.array(titles)]
                writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))


def _faiss(exported: _Exported) -> None:
    """A flat index by inner product, which is the cosine here; ids beside it."""
    try:
        import faiss
    except ImportError as e:
        given, fix = "FAISS is not installed", "pip install faiss-cpu"
        raise bad_input("--format faiss", given, "the library that writes it", fix) from e
    index = faiss.IndexFlatIP(exported.store.dim)
    for _, rows, _ in exported.blocks(0, len(exported.store)):
        index.add(np.ascontiguousarray(rows))
    faiss.write_index(index, str(exported.folder / "vectors.faiss"))
    ids = json.dumps(exported.store.ids, ensure_ascii=False)
    (exported.folder / "vectors.ids.json").write_text(ids, encoding="utf-8")


def _vertex(exported: _Exported) -> None:
    """The JSON Lines that Vertex AI Vector Search reads: id, embedding, and the title to be given
    back.
    """
    for number, start, stop in exported.parts():
        with (exported.folder / f"part-{number:05d}.json").open("w", encoding="utf-8") as file:
            for ids, rows, titles in exported.blocks(start, stop):
                for name, row, title in zip(ids, rows.tolist(), titles, strict=True):
                    line: dict[str, Any] = {"id": name, "embedding": row}
                    line |= {"embedding_metadata": {"title": title}} if title else {}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")


FORMATS: dict[str, Callable[[_Exported], None]] = {
    "parquet": _parquet,
    "faiss": _faiss,
    "vertex": _vertex,
}
