"""How long one query takes as it is served: text → tokens → tower → index → documents read, one
query at a time on one device. What is timed is the function that answers users, `Searcher.search`.

Not for throughput: `tests/bench` compares many at once with other software.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scalingnote_jax.data.collection import Collection
from scalingnote_jax.data.sources.base import Query
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.progress import say
from scalingnote_jax.retrieval.bm25 import Bm25
from scalingnote_jax.retrieval.engines.vector_index import VectorIndex
from scalingnote_jax.retrieval.hybrid.shipped_hybrid import Hybrid
from scalingnote_jax.retrieval.scann.scann_index import DEFAULT_K
from scalingnote_jax.retrieval.searcher import Searcher, SearchMode
from scalingnote_jax.retrieval.served_model import Model, served_mesh
from scalingnote_jax.retrieval.texts import CollectionTexts
from scalingnote_jax.vectors.encoder import Encoder
from scalingnote_jax.vectors.store import VectorStore

WARM = 20  # queries that are asked before the clock starts
SHARE = 0.5  # of a device's memory, that a tower may take to be timed there


@dataclass(frozen=True)
class Asked:
    """The queries of the clock.

    Attributes:
        timed: whose times count.
        others: none of these, asked before, so that nothing is cold.
        k: documents that each is answered with.
    """

    timed: list[Query]
    others: list[Query]
    k: int

    @classmethod
    def of(cls, queries: Sequence[Query], collection: Collection, count: int, seed: int) -> Asked:
        """At most `count` of the queries, drawn by the seed."""
        places = np.random.default_rng(seed).permutation(len(queries))
        timed = [queries[i] for i in places[:count]]
        own = {query.text for query in timed}
        others = (query for query in collection.queries if query.text not in own)
        k = min(DEFAULT_K, len(collection.doc_ids))
        return cls(timed, list(islice(others, WARM)), k)

    def times(
        self, answer: Callable[[str], Any], change: Callable[[Query], str] = lambda q: q.text
    ) -> dict[str, float]:
        """The row's "query_ms_p50" and "query_ms_p99" of a function from a text to its answer.

        Args:
            change: what is asked for a query; its text.
        """
        seconds = time_each(answer, [*map(change, self.timed)], [*map(change, self.others)])
        p50, p99 = np.percentile(np.asarray(seconds) * 1e3, [50, 99])
        return {"query_ms_p50": round(float(p50), 3), "query_ms_p99": round(float(p99), 3)}


def time_each(
    answer: Callable[[str], Any], texts: Sequence[str], others: Sequence[str]
) -> list[float]:
    """Seconds that `answer` takes for each of `texts`, after `others`, which do not count."""
    for text in others:
        answer(text)
    seconds = []
    for text in texts:
        started = time.perf_counter()
        answer(text)
        seconds.append(time.perf_counter() - started)
    return seconds


def time_searcher(
    asked: Asked,
    role: str,
    encoder: Encoder,
    index: VectorIndex,
    store: VectorStore,
    texts: CollectionTexts,
    hybrid: Hybrid | None = None,
) -> dict[str, float]:
    """Of a query tower on the index, on one device; {} where the tower is too large for one. Every
    process takes part; the first one's times count. `hybrid`: fused with these words.
    """
    mesh = served_mesh()
    if not _fits(encoder, mesh.devices.flat[0]):
        say(f"{role}: not timed, its weights are too large for one device")
        return {}
    served = encoder.on(mesh)
    if not mesh_lib.first_process():
        return {}
    model = Model(role, lambda: served, lambda: served)
    searcher = Searcher(model, index, store, texts, (lambda: hybrid) if hybrid else None)
    mode: SearchMode = "hybrid" if hybrid else "dense"
    served.warm()
    return asked.times(lambda text: searcher.search(text, asked.k, mode=mode))


def time_words(
    asked: Asked, bm25: Bm25, texts: CollectionTexts, change: Callable[[Query], str]
) -> dict[str, float]:
    """Of BM25, documents read as for the others."""

    def answer(text: str) -> None:
        texts.many([doc_id for doc_id, _ in bm25.search(text, asked.k)])

    return asked.times(answer, change)


def device_name() -> str:
    """The device that queries are timed on, as a person knows it."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return str(device.device_kind)
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{(names or [platform.machine()])[0]}, {os.cpu_count()} CPU cores"


def _fits(encoder: Encoder, device: jax.Device) -> bool:
    if encoder.mesh.size == 1:
        return True
    limit = (device.memory_stats() or {}).get("bytes_limit")
    size = sum(weight.nbytes for weight in jax.tree.leaves(encoder.params))
    return limit is None or size <= SHARE * limit
