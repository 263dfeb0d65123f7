"""The shipped path: a query text → the small student tower → ScaNN → documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from scalingnote_jax.config import DataConfig
from scalingnote_jax.config.values import read_workdir_config
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.errors import bad_input, printable
from scalingnote_jax.retrieval.engines.opening import open_index
from scalingnote_jax.retrieval.engines.vector_index import VectorIndex
from scalingnote_jax.retrieval.hybrid.fuse import DEPTH, Ranking
from scalingnote_jax.retrieval.scann.scann_index import DEFAULT_K
from scalingnote_jax.retrieval.served_model import Model, load, open_model
from scalingnote_jax.retrieval.texts import CollectionTexts, texts_of
from scalingnote_jax.vectors.given_texts import given_queries
from scalingnote_jax.vectors.store import VectorStore
from scalingnote_jax.workflow.workdir import Workdir

if TYPE_CHECKING:  # heavy, and most searches do without
    from scalingnote_jax.retrieval.hybrid.shipped_hybrid import Hybrid

__all__ = ["Hit", "Model", "SearchMode", "Searcher", "load"]

SHOWN_CHARS = 60  # of a text, in a repr
SearchMode = Literal["dense", "hybrid", "lexical"]


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


class IndexedIds(Protocol):
    """What says which document a row of an index is: a `VectorStore`, or an `IndexUpdate`."""

    @property
    def ids(self) -> list[str]: ...


class Searcher:
    """Answers text queries: by a model, an index, the ids of its rows, and the texts of these."""

    def __init__(
        self,
        model: Model,
        index: VectorIndex,
        store: IndexedIds,
        texts: Mapping[str, Any] | None = None,
        hybrid: Callable[[], Hybrid] | None = None,
    ):
        """
        Args:
            store: of the index's rows. An `IndexUpdate` serves its changes as they are made.
            texts: id → text, (title, text) or a mapping with both; a hit whose id is not in it has
                empty ones.
            hybrid: makes what the modes "hybrid" and "lexical" need.

        Raises:
            UserError: the index has other rows than the store.
        """
        self._load_hybrid = hybrid
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
        model = open_model(paths, int8, store.manifest.get("checkpoint"))
        index = open_index(paths.index, store)
        collection = Collection.open(paths.data)
        _check_corpus(store, collection, paths)
        data = model.data or DataConfig()

        def hybrid() -> Hybrid:
            from scalingnote_jax.retrieval.hybrid.shipped_hybrid import HybridParts

            parts = HybridParts(paths.hybrid, collection, data, store, model.identity)
            return parts.open(model.query_encoder)

        return cls(model, index, store, CollectionTexts(collection, model.data), hybrid)

    def search(
        self,
        texts: str | Sequence[str],
        k: int = DEFAULT_K,
        collection: str | None = None,
        mode: SearchMode = "dense",
    ) -> list[list[Hit]]:
        """For each text the k best documents, best first. The modes "hybrid" and "lexical" may find
        fewer; a hit's score is then of the fusion, or of BM25.

        Args:
            texts: one string is one query.
            k: 1 to the number of documents.
            collection: as for `Model.encode_queries`.
            mode: "dense": by the tower. "lexical": by BM25. "hybrid": by both, fused.

        Raises:
            UserError: an empty query, something else than texts, a k out of range, or no hybrid of
                these documents.
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
        vectors = self.model.encode_queries(given, **named)
        return self.hits(self.ranked(vectors, given, int(k), mode))

    @property
    def teacher(self) -> str:
        """Hash of the weights that made the documents' vectors; "" where nothing says so."""
        return str(getattr(self.store, "manifest", {}).get("checkpoint", ""))

    @cached_property
    def hybrid(self) -> Hybrid:
        """BM25 and how it is fused with the tower; read or made when it is first asked for.

        Raises:
            UserError: this searcher was put together without.
        """
        if self._load_hybrid is None:
            given, fix = "a searcher without words", "use Searcher.open, or mode dense"
            raise bad_input("mode", given, "one with an index of words", fix)
        return self._load_hybrid()

    def ranked(
        self, vectors: np.ndarray, texts: Sequence[str], k: int, mode: SearchMode
    ) -> list[Ranking]:
        """The k best documents of each query, best first.

        Args:
            vectors: [q, D] float32 unit vectors of the query tower.
            texts: the queries, without a prompt; of mode "dense" not looked at.
            k: 1 to the number of documents.
            mode: as for `search`.
        """
        if mode == "dense":
            return self.nearest(vectors, k)
        depth = min(max(k, DEPTH), len(self.index))
        words = self.hybrid.words.search_many(texts, depth if mode == "hybrid" else k)
        if mode == "lexical":
            return words
        pairs = zip(self.nearest(vectors, depth), words, strict=True)
        return [self.hybrid.fusion.fuse(*pair, k) for pair in pairs]

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
