"""Approximate search on a CPU: queries per second at recall@10 ≥ 0.95, against FAISS.

    bash launch/bench.sh ann       or, inside of .venv-bench: python tests/bench/ann.py

Equal terms: the same unit vectors, inner product, all cores; each side is tuned by the same
procedure (`retrieval/tuning.py`) on the same held queries, over the same numbers of lists searched
and of candidates scored again, with two builds each: ScaNN with SOAR and without, FAISS IVFPQ with
8-bit codes and with the faster 4-bit ones (fast scan), both with exact refinement. A third side is
FAISS's HNSW with one build, given up after `--hnsw-secs` (hnswlib has no wheels). Speed and recall
are measured on queries that no tuning saw.

The synthetic vectors lie around 1000 topics of many subtopics of about 20 vectors, queries too.
Others are given with `--vectors X.npy`, [n, D] float32, or with the folder of a vector store; the
queries are then taken out of them.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np

from scalingnote_jax.config import IndexConfig
from scalingnote_jax.retrieval.build_index import build_index
from scalingnote_jax.retrieval.exact import exact_search, overlap
from scalingnote_jax.retrieval.scann_index import ScannIndex
from scalingnote_jax.retrieval.store import StoreWriter, VectorStore
from scalingnote_jax.retrieval.tuning import (
    AT,
    REORDER_FACTORS,
    Held,
    Point,
    Search,
    choose,
    curve,
    steps_to,
)

TOPICS = 1000
HNSW_LINKS, HNSW_EFFORT = 16, 100
HNSW_CHUNK = 10_000  # vectors added between two looks at the clock
Answer = Callable[[np.ndarray], np.ndarray]


def clustered(n: int, dim: int, seed: int, docs: int) -> np.ndarray:
    """[n, dim] float32 unit vectors of a corpus of `docs`."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(0)
    topics = fixed.standard_normal((TOPICS, dim), np.float32)
    subtopics = topics[fixed.integers(0, TOPICS, max(docs // 20, 1))]
    subtopics += 0.7 * fixed.standard_normal(subtopics.shape, np.float32)
    x = subtopics[rng.integers(0, len(subtopics), n)]
    x += 0.5 * rng.standard_normal(x.shape, np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def resident_bytes() -> int:
    """Memory of this process that files on disk do not back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith("RssAnon")).split()[1]) * 1024


def ours(store: VectorStore, held: Held, what: common.Result) -> tuple[Answer, common.Result]:
    """ScaNN as the index step builds and tunes it."""
    folder = Path(what["folder"]) / "index"
    cfg = IndexConfig(target_recall=what["target"], exact_below=0)
    build_index(store, cfg, folder, held.queries)
    ctypes.CDLL(None).malloc_trim(0)  # or the index would lie in what building has freed
    before = resident_bytes()
    index = ScannIndex.open(folder, store.fingerprint)
    memory, settings = resident_bytes() - before, index.manifest["settings"]
    facts = {"memory_bytes": memory, "said_bytes": index.manifest["memory_bytes"]}
    return lambda q: index.search(q, AT)[1], facts | {"settings": settings}


def faiss_side(store: VectorStore, held: Held, what: common.Result) -> tuple[Answer, common.Result]:
    """FAISS IVFPQ with exact refinement."""
    import faiss

    docs, leaves = np.ascontiguousarray(store.vectors()), round(len(store) ** 0.5)
    best: tuple[Point, Any, Search, int] | None = None
    for codes in (f"PQ{store.dim // 4}", f"PQ{store.dim // 2}x4fs"):
        before = resident_bytes()
        name = f"IVF{leaves},{codes},RFlat"
        index = faiss.index_factory(store.dim, name, faiss.METRIC_INNER_PRODUCT)
        index.train(docs)
        index.add(docs)
        memory = resident_bytes() - before
        lists = faiss.extract_index_ivf(index)

        def search(
            q: np.ndarray, k: int, wide: int, deep: int, index: Any = index, lists: Any = lists
        ) -> np.ndarray:
            lists.nprobe, index.k_factor = wide, deep / k
            return index.search(q, k)[1]

        points = curve(held, search, steps_to(leaves), deep_values(), what["target"])
        point = choose(points, what["target"])
        point = Point(point.settings | {"index": name}, point.recall, point.queries_per_sec)
        if best is None or choose([best[0], point], what["target"]) is point:
            best = point, index, search, memory
    assert best is not None
    return _chosen(best[0], best[2], best[3])


def hnsw_side(store: VectorStore, held: Held, what: common.Result) -> tuple[Answer, common.Result]:
    """A graph of neighbours (HNSW) over the vectors as they are; stops when building takes too
    long.
    """
    import faiss

    before, started = resident_bytes(), time.perf_counter()
    index = faiss.IndexHNSWFlat(store.dim, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = HNSW_EFFORT
    docs = store.vectors()
    for start in range(0, len(store), HNSW_CHUNK):
        index.add(docs[start : start + HNSW_CHUNK])
        if time.perf_counter() - started > what["hnsw_secs"]:
            raise TimeoutError(f"after {what['hnsw_secs']:g} s at {start + HNSW_CHUNK} vectors")
    memory = resident_bytes() - before

    def search(q: np.ndarray, k: int, wide: int, _: int) -> np.ndarray:
        index.hnsw.efSearch = wide
        return index.search(q, k)[1]

    efs = [ef for ef in steps_to(1000) if ef >= AT]
    points = curve(held, search, efs, [0], what["target"])
    return _chosen(choose(points, what["target"]), search, memory)


def _chosen(point: Point, search: Search, memory: int) -> tuple[Answer, common.Result]:
    wide, deep = point.settings["wide"], point.settings["deep"]
    facts = {"memory_bytes": memory, "settings": point.settings}
    return lambda q: search(q, AT, wide, deep), facts


def deep_values() -> list[int]:
    """Candidates scored again: the same as ScaNN's."""
    return [AT * factor for factor in REORDER_FACTORS]


SIDES = {"ours": ours, "faiss": faiss_side, "hnsw": hnsw_side}


def side(what: common.Result) -> None:
    """One side: builds and tunes, then answers the test queries when it is its turn."""
    turns = common.Turns()
    folder = Path(what["folder"])
    store = VectorStore.open(folder / "store")
    tune, test, truth = (np.load(folder / f"{name}.npy") for name in ("tune", "test", "truth"))
    held = Held(tune, truth[: len(tune)], None, "queries")
    started = time.perf_counter()
    try:
        answer, facts = SIDES[what["side"]](store, held, what)
    except TimeoutError as e:
        turns.hand_over(given_up=str(e), build_secs=round(time.perf_counter() - started, 1))
        return
    build_secs = round(time.perf_counter() - started, 1)
    recall = overlap(truth[len(tune) :], answer(test), AT)
    turns.hand_over(**facts, build_secs=build_secs, recall=round(recall, 4))
    while True:
        started = time.perf_counter()
        answer(test)
        turns.hand_over(queries_per_sec=len(test) / (time.perf_counter() - started))


def prepare(folder: Path, args: argparse.Namespace) -> tuple[int, int]:
    """Writes vectors, queries and what exact search finds; returns the shape of the vectors."""
    count = 2 * args.queries
    if args.vectors:
        is_store = Path(args.vectors).is_dir()
        x = VectorStore.open(args.vectors).vectors() if is_store else np.load(args.vectors)
        x = x[np.random.default_rng(0).permutation(len(x))[: args.docs + count]]
        docs, queries = x[count:], x[:count]
    else:
        docs = clustered(args.docs, args.dim, 1, args.docs)
        queries = clustered(count, args.dim, 2, args.docs)
    with StoreWriter(folder / "store", docs.shape[1], {}, len(docs)) as writer:
        writer.add([str(i) for i in range(len(docs))], docs)
        writer.close()
    truth = exact_search(queries, docs, AT)[1]
    for name, array in (
        ("tune", queries[: args.queries]),
        ("test", queries[args.queries :]),
        ("truth", truth),
    ):
        np.save(folder / f"{name}.npy", array)
    return docs.shape[0], docs.shape[1]


def main() -> None:
    """Builds each side in turn, then measures them in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=1000, help="for tuning, and for the test")
    parser.add_argument("--vectors", help=".npy or vector store instead of synthetic vectors")
    parser.add_argument("--target", type=float, default=0.95)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hnsw-secs", type=float, default=600)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        docs, dim = prepare(Path(folder), args)
        what = {"folder": folder, "target": args.target, "hnsw_secs": args.hnsw_secs}
        sides = {}
        for name in SIDES:
            sides[name] = common.Side(str(Path(__file__)), what | {"side": name})
            print(json.dumps({name: sides[name].setup}), flush=True)
        able = {name: s for name, s in sides.items() if "given_up" not in s.setup}
        results = common.in_turns(able, args.rounds)
        for one in sides.values():
            one.close()
    rates = {name: common.median(turns, "queries_per_sec") for name, turns in results.items()}
    rows = {
        name: s.setup | {"queries_per_sec": round(rates[name], 1) if name in rates else None}
        for name, s in sides.items()
    }
    common.last_line(
        "ann",
        round(rates["ours"], 1),
        round(rates["faiss"], 1),
        "queries/s",
        docs=docs,
        dim=dim,
        target=args.target,
        rows=rows,
        machine=common.machine("scann", "faiss-cpu", "numpy"),
    )


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    given = common.task()
    if given is None:
        main()
    else:
        side(given)
