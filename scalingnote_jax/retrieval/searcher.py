"""The shipped path: a query text → the small student tower → ScaNN → documents. And `load`, the
towers from Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import numpy as np

from scalingnote_jax.config import EncodeConfig, MeshConfig
from scalingnote_jax.config.values import read_workdir_config
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.errors import bad_input
from scalingnote_jax.retrieval.scann_index import ScannIndex
from scalingnote_jax.vectors.encoder import Encoder, load_encoder
from scalingnote_jax.vectors.pairing import run_towers, served_config
from scalingnote_jax.vectors.store import VectorStore
from scalingnote_jax.vectors.trained import RunTowers
from scalingnote_jax.workflow.workdir import Workdir


@dataclass(frozen=True)
class Hit:
    """One document found; `score` is its vector's cosine with the student's query vector."""

    id: str
    score: float
    title: str
    text: str


class Model:
    """The towers of a finished run: `encode_queries` by the student (without stage 2 the teacher's
    query tower), `encode_documents` by the teacher's document tower.
    """

    def __init__(self, towers: RunTowers, shipped: str, cfg: EncodeConfig, int8: bool = False):
        """
        Args:
            shipped: the role of the query tower.
            int8: as for `load`.
        """
        if int8 and shipped == "teacher":
            given, fix = "a workdir without stage 2", "leave int8 out"
            raise bad_input("int8", given, "a student to hold in int8", fix)
        self._towers, self._cfg = towers, cfg
        self._query = "student_int8" if int8 else shipped
        # One device: a server answers single queries, which no mesh could split.
        self._mesh = make_mesh(MeshConfig(), jax.local_devices()[:1])

    @cached_property
    def _query_encoder(self) -> Encoder:
        return load_encoder(self._towers.get(self._query, "query"), self._cfg, self._mesh)

    @cached_property
    def _doc_encoder(self) -> Encoder:
        return load_encoder(self._towers.get("teacher", "doc"), self._cfg, self._mesh)

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """[n, D] (or `encode.dim`) float32 unit vectors of queries, by the shipped tower."""
        encoder = self._query_encoder
        return encoder.unit(encoder.encode(texts))

    def encode_documents(self, documents: Sequence[str | tuple[str, str]]) -> np.ndarray:
        """[n, D] float32 unit vectors of documents (texts or (title, text) pairs), by the teacher's
        document tower.
        """
        encoder = self._doc_encoder
        return encoder.unit(encoder.encode(documents))


def load(workdir: str | Path, int8: bool = False, student: str | Path | None = None) -> Model:
    """The towers of a workdir that `scalingnote run` (or `train` and `distill`) has finished.

    Args:
        student: another workdir of the same teacher, or the folder of such a student: it is taken
            instead of the workdir's own.
        int8: holds the student's linear weights in int8, for less memory. What that costs, the
            evaluation says in its row "student_int8" (`eval.systems`).

    Raises:
        UserError: the student learned from another teacher than the one that is there.
    """
    return _model(Workdir(workdir, student), int8)


def _model(paths: Workdir, int8: bool, teacher: str | None = None) -> Model:
    """`teacher`: as for `served_config`."""
    config = served_config(paths, teacher)
    stages = config.stages
    towers = run_towers(config.teacher, config.distill.student, config.seed, stages, paths)
    return Model(towers, stages.shipped, config.encode, int8)


class Searcher:
    """Answers text queries from a finished workdir."""

    def __init__(self, model: Model, index: ScannIndex, store: VectorStore, collection: Collection):
        self.model, self.index, self.store, self.collection = model, index, store, collection
        self._document_row = {doc_id: row for row, doc_id in enumerate(collection.doc_ids)}

    @classmethod
    def open(
        cls, workdir: str | Path, int8: bool = False, student: str | Path | None = None
    ) -> Searcher:
        """Opens student, index and documents; whatever is missing or does not fit together is named
        in one line. `int8`, `student`: as for `load`; the index stays as it is.
        """
        paths = Workdir(workdir, student)
        read_workdir_config(paths.root)  # a folder that is no workdir is said to be none
        store = VectorStore.open(paths.embeddings("teacher", "doc"))
        return cls(
            _model(paths, int8, store.manifest.get("checkpoint")),
            ScannIndex.open(paths.index, store.fingerprint),
            store,
            Collection.open(paths.data),
        )

    def search(self, texts: Sequence[str], k: int = 10) -> list[list[Hit]]:
        """For each text the k best documents, best first."""
        if any(not t.strip() for t in texts):
            raise bad_input("search", "an empty query", "some text", "type a few words")
        if not 1 <= k <= len(self.store):
            raise bad_input("-k", str(k), f"1 to {len(self.store)} documents", "ask for fewer")
        scores, rows = self.index.search(self.model.encode_queries(texts), k)
        return [
            [self._hit(row, score) for row, score in zip(*pair, strict=True)]
            for pair in zip(rows, scores, strict=True)
        ]

    def _hit(self, row: int, score: float) -> Hit:
        doc_id = self.store.ids[row]
        document = self.collection.documents[self._document_row[doc_id]]
        return Hit(doc_id, float(score), document.title, document.text)
