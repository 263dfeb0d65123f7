"""The hybrid of a workdir: BM25 over its corpus, and how its ranking is fused with the shipped
tower's, tuned on the dev queries. Both are kept beside the index, for the next time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scalingnote_jax.config import DataConfig, ExactConfig
from scalingnote_jax.data.collection import Collection
from scalingnote_jax.data.sources.base import Query
from scalingnote_jax.data.sources.mixture import bare
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.progress import say
from scalingnote_jax.retrieval.bm25 import Bm25
from scalingnote_jax.retrieval.exact import exact_search
from scalingnote_jax.retrieval.hybrid.fuse import (
    DEPTH,
    MEASURE,
    UNTUNED,
    Fusion,
    best_fusion,
)
from scalingnote_jax.retrieval.hybrid.saved_words import saved_words
from scalingnote_jax.vectors.encoder import Encoder
from scalingnote_jax.vectors.store import VectorStore

FUSION = "fusion.json"
MOST_QUERIES = 1000  # that tuning takes
SPLIT = "dev"


@dataclass(frozen=True)
class Hybrid:
    """BM25, and how it is fused with a tower's ranking."""

    words: Bm25
    fusion: Fusion


@dataclass(frozen=True)
class HybridParts:
    """What a hybrid is made from.

    Attributes:
        folder: where it is kept.
        collection, data: the corpus, and what it was built from.
        store: vectors of the corpus.
        tower: hash of the query tower's weights.
        split: that is evaluated, whose queries may not tune.
    """

    folder: Path
    collection: Collection
    data: DataConfig
    store: VectorStore
    tower: str
    split: str = ""

    def open(self, encoder: Encoder) -> Hybrid:
        """Reads the hybrid, or makes it. `encoder`: the query tower."""
        words = self._words()
        path, held_out = self.folder / FUSION, self.split != SPLIT
        made_from = {"tower": self.tower, "store": self.store.fingerprint, "held_out": held_out}
        kept = _read(path)
        mesh_lib.barrier("hybrid read")
        if kept.get("made_from") == made_from:
            return Hybrid(words, Fusion(**kept["fusion"]))
        fusion, how = self._tuned(words, encoder)
        if mesh_lib.first_process():
            _write(path, {"made_from": made_from, "fusion": asdict(fusion), **how})
        return Hybrid(words, fusion)

    def _words(self) -> Bm25:
        """Made by the first process, then read by the others."""
        given = self.folder / "words", self.collection, self.data
        words = saved_words(*given) if mesh_lib.first_process() else None
        mesh_lib.barrier("hybrid words")
        return words or saved_words(*given)

    def _tuned(self, words: Bm25, encoder: Encoder) -> tuple[Fusion, dict[str, Any]]:
        queries, qrels = self._judged()
        if not queries:
            say(f"hybrid: no {SPLIT} queries to tune with; {UNTUNED}")
            return UNTUNED, {"tuned_on": 0}
        k = min(DEPTH, len(self.store))
        vectors = encoder.unit(encoder.encode([query.text for query in queries]))
        given = vectors, self.store.on_disk(), k, ExactConfig(), encoder.mesh
        scores, rows = (np.asarray(x) for x in exact_search(*given))
        plain = [query.text for query in bare(self.data, queries)]
        dense = {
            query.id: [(self.store.ids[r], float(s)) for r, s in zip(*pair, strict=True)]
            for query, pair in zip(queries, zip(rows, scores, strict=True), strict=True)
        }
        found = dict(zip(dense, words.search_many(plain, k), strict=True))
        fusion, reached = best_fusion(dense, found, qrels)
        value = f"{MEASURE} {reached[str(fusion)]:.3f}"
        say(f"hybrid: {fusion}: {value} on {len(queries)} {SPLIT} queries")
        return fusion, {"tuned_on": len(queries), "measure": MEASURE, "reached": reached}

    def _judged(self) -> tuple[list[Query], Mapping[str, Mapping[str, int]]]:
        """Dev queries that have a relevant document, at most `MOST_QUERIES`, evenly drawn."""
        if SPLIT not in self.collection.splits or self.split == SPLIT:
            return [], {}
        qrels = self.collection.qrels(SPLIT)
        asked = [q for q in self.collection.queries if max(qrels.get(q.id, {}).values(), default=0)]
        chosen = asked[:: -(-len(asked) // MOST_QUERIES) or 1]
        return chosen, {query.id: qrels[query.id] for query in chosen}


def _write(path: Path, values: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(values, indent=1) + "\n")
    except OSError as e:
        say(f"hybrid: {path} cannot be written ({e}); it is tuned again next time")


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {}
