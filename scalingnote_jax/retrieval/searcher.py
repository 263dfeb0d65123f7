"""The shipped path: a query text → the small student tower → ScaNN → documents. And `load`, the
towers from Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from scalingnote_jax.config import DataConfig, MeshConfig
from scalingnote_jax.config.forms.mixture_entry import prompt_of
from scalingnote_jax.config.values import read_workdir_config
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.errors import bad_input, printable
from scalingnote_jax.retrieval.scann_index import DEFAULT_K, ScannIndex
from scalingnote_jax.retrieval.texts import CollectionTexts, texts_of
from scalingnote_jax.vectors.encoder import Encoder, load_encoder
from scalingnote_jax.vectors.given_texts import given_documents, given_queries
from scalingnote_jax.vectors.pairing import run_towers, served_config
from scalingnote_jax.vectors.store import VectorStore
from scalingnote_jax.workflow.workdir import Workdir

SHOWN_CHARS = 60  # of a text, in a repr
Ranking = list[tuple[str, float]]  # document ids with their scores, best first


@dataclass(frozen=True)
class Hit:
    """One document found; `score` is its vector's cosine with the student's query vector. Title and
    text are empty where the searcher has no text of it.
    """

    id: str
    score: float
    title: str
    text: str

    @property
    def line(self) -> str:
        """Title and text on one printable line."""
        return printable(" ".join(f"{self.title}: {self.text}".removeprefix(": ").split()))

    def __repr__(self) -> str:
        shown = self.line
        cut = shown if len(shown) <= SHOWN_CHARS else f"{shown[: SHOWN_CHARS - 1]}…"
        return f"Hit({self.id!r}, {self.score:.3f}, {cut!r})"


def served_mesh() -> Mesh:
    """One device: a server answers single queries, which no mesh could split."""
    return make_mesh(MeshConfig(), jax.local_devices()[:1])


class Model:
    """Two towers that go together: `encode_queries` by the shipped one (without stage 2 the
    teacher's query tower), `encode_documents` by the teacher's document tower. Each is loaded when
    it is first asked for.
    """

    def __init__(
        self,
        shipped: str,
        query: Callable[[], Encoder],
        doc: Callable[[], Encoder],
        data: DataConfig | None = None,
    ):
        """
        Args:
            shipped: what the query tower is called.
            query, doc: load the towers.
            data: that they were trained on, for the prompts of a mixture's collections; None: texts
                have theirs already.
        """
        self.shipped, self._load_query, self._load_doc, self.data = shipped, query, doc, data

    def __repr__(self) -> str:
        return f"Model(queries by {self.shipped!r}, documents by 'teacher')"

    @cached_property
    def query_encoder(self) -> Encoder:
        """The tower of `encode_queries`."""
        return self._load_query()

    @cached_property
    def doc_encoder(self) -> Encoder:
        """The tower of `encode_documents`."""
        return self._load_doc()

    def encode_queries(
        self, texts: str | Iterable[str], collection: str | None = None
    ) -> np.ndarray:
        """[n, D] (or `encode.dim`) float32 unit vectors of queries, by the shipped tower.

        Args:
            texts: one string is one query.
            collection: of a mixture, whose `data.query_prompts` are put in front; needed where they
                differ.

        Raises:
            UserError: something else than texts, or no collection where one is needed.
        """
        given = given_queries(texts, "encode_queries")
        prompt = self.prompt("query_prompts", collection)
        encoder = self.query_encoder
        return encoder.unit(encoder.encode([prompt + text for text in given]))

    def encode_documents(self, documents: Any, collection: str | None = None) -> np.ndarray:
        """[n, D] float32 unit vectors of documents, by the teacher's document tower.

        Args:
            documents: texts, (title, text) pairs or mappings {"title", "text"}; one string or
                mapping is one document.
            collection: as for `encode_queries`, with `data.doc_prompts`.

        Raises:
            UserError: as `encode_queries`.
        """
        given = given_documents(documents, "encode_documents")
        prompt = self.prompt("doc_prompts", collection)
        encoder = self.doc_encoder
        pairs = [(title, prompt + text if text.strip() else text) for title, text in given]
        return encoder.unit(encoder.encode(pairs))

    def prompt(self, field: str, collection: str | None) -> str:
        """What stands in front of a text.

        Args:
            field: "query_prompts" or "doc_prompts".
            collection: as for `encode_queries`.

        Raises:
            UserError: no collection where one is needed, or an unknown one.
        """
        return prompt_of(self.data, field, collection) if self.data is not None else ""


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
    if int8 and not stages.distills:
        given, fix = "a workdir without stage 2", "leave int8 out"
        raise bad_input("int8", given, "a student to hold in int8", fix)
    shipped = "student_int8" if int8 else stages.shipped
    towers = run_towers(config.teacher, config.distill.student, config.seed, stages, paths)
    mesh = served_mesh()
    return Model(
        shipped,
        lambda: load_encoder(towers.get(shipped, "query"), config.encode, mesh),
        lambda: load_encoder(towers.get("teacher", "doc"), config.encode, mesh),
        config.data,
    )


class IndexedIds(Protocol):
    """What says which document a row of an index is: a `VectorStore`, or an `IndexUpdate`."""

    @property
    def ids(self) -> list[str]: ...


class Searcher:
    """Answers text queries: by a model, an index, the ids of its rows, and the texts of these."""

    def __init__(
        self,
        model: Model,
        index: ScannIndex,
        store: IndexedIds,
        texts: Mapping[str, Any] | None = None,
    ):
        """
        Args:
            store: of the index's rows. An `IndexUpdate` serves its changes as they are made.
            texts: id → text, (title, text) or a mapping with both; a hit whose id is not in it has
                empty ones.

        Raises:
            UserError: the index has other rows than the store.
        """
        self.model, self.index, self.store = model, index, store
        self.texts: Mapping[str, Any] = {} if texts is None else texts
        if len(index) != len(store.ids):
            given, expected = (
                f"an index of {len(index)} rows",
                f"{len(store.ids)}, as the store has",
            )
            raise bad_input("Searcher", given, expected, "open the two that were written together")

    def __repr__(self) -> str:
        return f"Searcher({self.model!r}, {len(self.index)} documents, {self.index.kind})"

    @classmethod
    def open(
        cls, workdir: str | Path, int8: bool = False, student: str | Path | None = None
    ) -> Searcher:
        """Opens student, index and documents of a workdir; whatever is missing or does not fit
        together is named in one line. `int8`, `student`: as for `load`; the index stays as it is.
        """
        paths = Workdir(workdir, student)
        read_workdir_config(paths.root)  # a folder that is no workdir is said to be none
        store = VectorStore.open(paths.embeddings("teacher", "doc"))
        model = _model(paths, int8, store.manifest.get("checkpoint"))
        index = ScannIndex.open(paths.index, store.fingerprint)
        collection = Collection.open(paths.data)
        _check_corpus(store, collection, paths)
        return cls(model, index, store, CollectionTexts(collection, model.data))

    def search(
        self, texts: str | Sequence[str], k: int = DEFAULT_K, collection: str | None = None
    ) -> list[list[Hit]]:
        """For each text the k best documents, best first.

        Args:
            texts: one string is one query.
            k: 1 to the number of documents.
            collection: as for `Model.encode_queries`.

        Raises:
            UserError: an empty query, something else than texts, or a k out of range.
        """
        given = given_queries(texts, "search")
        if any(not t.strip() for t in given):
            raise bad_input("search", "an empty query", "some text", "type a few words")
        whole = isinstance(k, int | np.integer) and not isinstance(k, bool)
        if not whole or not 1 <= k <= len(self.index):
            raise bad_input("-k", repr(k), f"1 to {len(self.index)} documents", "ask for fewer")
        if not given:
            return []
        named = {} if collection is None else {"collection": collection}
        return self.hits(self.nearest(self.model.encode_queries(given, **named), int(k)))

    def nearest(self, vectors: np.ndarray, k: int) -> list[Ranking]:
        """The k best documents of each query vector, best first.

        Args:
            vectors: [q, D] float32 unit vectors of the query tower.
            k: 1 to the number of documents.
        """
        scores, rows = self.index.search(vectors, k)
        ids = self.store.ids
        return [
            [(ids[row], score) for row, score in zip(*pair, strict=True)]
            for pair in zip(rows.tolist(), scores.tolist(), strict=True)
        ]

    def hits(self, rankings: Sequence[Ranking]) -> list[list[Hit]]:
        """Rankings with their texts, which are one read."""
        pairs = iter(texts_of(self.texts, [doc_id for found in rankings for doc_id, _ in found]))
        return [[Hit(doc_id, score, *next(pairs)) for doc_id, score in found] for found in rankings]


def _check_corpus(store: VectorStore, collection: Collection, paths: Workdir) -> None:
    """The texts that are shown must be those that the vectors are of."""
    made_from = store.manifest.get("corpus")
    if made_from == collection.fingerprint:
        return
    given = f"vectors of other documents ({str(made_from)[:12]})"
    if made_from is None:
        given = "vectors that were changed after they were made"
    raise bad_input(
        str(store.dir),
        given,
        f"of those in {paths.data} ({collection.fingerprint[:12]})",
        "run `scalingnote run` again, or give its parts to scalingnote_jax.Searcher",
    )
