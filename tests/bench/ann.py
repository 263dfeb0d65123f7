"""Approximate search on a CPU: queries per second at recall@10 ≥ 0.95, against FAISS.

    bash launch/bench.sh ann       or, inside of .venv-bench: python tests/bench/ann.py

Equal terms: the same unit vectors, inner product, all cores; each side is tuned by the same
procedure (`retrieval/tuning.py`) on the same held queries, over the same numbers of lists searched
and of candidates scored again. ScaNN is built with SOAR and without. FAISS IVFPQ with exact
refinement is two sides: with 8-bit codes, the classical one, and with 4-bit codes of as many bytes,
which are scanned in registers as ScaNN's are (fast scan). The last is FAISS's HNSW, given up after
`--hnsw-secs` (hnswlib has no wheels). Speed and recall are measured on queries that no tuning saw.

The synthetic vectors lie in overlapping topics, each spread in some directions of its own, queries
too. Others are given with `--vectors X.npy`, [n, D] float32, or with the folder of a vector store;
the queries are then taken out of them. A turn answers the test queries for a second.
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

import common
import numpy as np

from scalingnote_jax.config import IndexConfig
from scalingnote_jax.retrieval.build_index import build_index
from scalingnote_jax.retrieval.exact import exact_search, overlap
from scalingnote_jax.retrieval.scann.scann_index import DEFAULT_K, ScannIndex
from scalingnote_jax.retrieval.tuning import (
    REORDER_FACTORS,
    Held,
    Point,
    Search,
    choose,
    curve,
    steps_to,
)
from scalingnote_jax.vectors.store import StoreWriter, VectorStore

TOPICS, SPREAD = 100, 32  # clusters, and directions in which each is spread
HNSW_LINKS, HNSW_EFFORT = 16, 100
TURN_SECS = 1.0
HNSW_CHUNK = 10_000  # vectors added between two looks at the clock
Answer = Callable[[np.ndarray], np.ndarray]


def clustered(n: int, dim: int, seed: int) -> np.ndarray:
    """[n, dim] float32 unit vectors: topics that overlap, each spread in directions of its own, so
    that the neighbours of a query lie in several leaves, as those of real texts do.
    """
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(0)
    centres = 0.4 * fixed.standard_normal((TOPICS, dim), np.float32)
    x = np.empty((n, dim), np.float32)
    topic_of = rng.integers(0, TOPICS, n)
    order = np.argsort(topic_of, kind="stable")
    for topic, rows in enumerate(
        np.split(order, np.searchsorted(topic_of[order], range(1, TOPICS)))
    ):
        axes = fixed.standard_normal((SPREAD, dim), np.float32) / SPREAD**0.5
        x[rows] = centres[topic] + rng.standard_normal((len(rows), SPREAD), np.float32) @ axes
    x += 0.1 * rng.standard_normal(x.shape, np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def resident_bytes() -> int:
    """Memory of this process that files on disk do not back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith("RssAnon")).split()[1]) * 1024


def ours(store: VectorStore, held: Held, what: common.Result) -> tuple[Answer, common.Result]:
    """ScaNN as the index step builds and tunes it, always with a tree, as FAISS has lists."""
    folder = Path(what["folder"]) / "index"
    cfg = IndexConfig(target_recall=what["target"], exact_below=0, partition_above=0)
    build_index(store, cfg, folder, held.queries)
    ctypes.CDLL(None).malloc_trim(0)  # or the index would lie in what building has freed
    before = resident_bytes()
    index = ScannIndex.open(folder, store.fingerprint)
    memory, settings = resident_bytes() - before, index.manifest["settings"]
    facts = {"memory_bytes": memory, "said_bytes": index.manifest["memory_bytes"]}
    return lambda q: index.search(q, DEFAULT_K)[1], facts | {"settings": settings}


def faiss_side(store: VectorStore, held: Held, what: common.Result) -> tuple[Answer, common.Result]:
    """FAISS IVFPQ with exact refinement, and the codes of this side."""
    import faiss

    docs, leaves = np.ascontiguousarray(store.vectors()), round(len(store) ** 0.5)
    before = resident_bytes()
    name = f"IVF{leaves},{CODES[what['side']].format(store.dim // 4, store.dim // 2)},RFlat"
    index = faiss.index_factory(store.dim, name, faiss.METRIC_INNER_PRODUCT)
    index.train(docs)
    index.add(docs)
    memory = resident_bytes() - before
    lists = faiss.extract_index_ivf(index)

    def search(q: np.ndarray, k: int, wide: int, deep: int) -> np.ndarray:
        lists.nprobe, index.k_factor = wide, deep / k
        return index.search(q, k)[1]

    points = curve(held, DEFAULT_K, search, steps_to(leaves), deep_values(), what["target"])
    answer, facts = _chosen(choose(points, what["target"]), search, memory)
    return answer, facts | {"index": name}


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

    efs = [ef for ef in steps_to(1000) if ef >= DEFAULT_K]
    points = curve(held, DEFAULT_K, search, efs, [0], what["target"])
    return _chosen(choose(points, what["target"]), search, memory)


def _chosen(point: Point, search: Search, memory: int) -> tuple[Answer, common.Result]:
    wide, deep = point.settings["wide"], point.settings["deep"]
    facts = {"memory_bytes": memory, "settings": point.settings}
    return lambda q: search(q, DEFAULT_K, wide, deep), facts


def deep_values() -> list[int]:
    """Candidates scored again: the same as ScaNN's."""
    return [DEFAULT_K * factor for factor in REORDER_FACTORS]


SIDES = {"ours": ours, "ivfpq": faiss_side, "fast_scan": faiss_side, "hnsw": hnsw_side}
CODES = {"ivfpq": "PQ{0}", "fast_scan": "PQ{1}x4fs"}  # of D / 4 and D / 2 blocks: equal bytes


def side(what: common.Result) -> None:
    """One side: builds and tunes, then answers the test queries when it is its turn."""
    turns = common.Turns()
    folder = Path(what["folder"])
    store = VectorStore.open(folder / "store")
    tune, test, truth = (np.load(folder / f"{name}.npy") for name in ("tune", "test", "truth"))
    held = Held(tune, truth[: len(tune)], None, "queries", (DEFAULT_K,))
    started = time.perf_counter()
    try:
        answer, facts = SIDES[what["side"]](store, held, what)
    except TimeoutError as e:
        turns.hand_over(given_up=str(e), build_secs=round(time.perf_counter() - started, 1))
        return
    build_secs = round(time.perf_counter() - started, 1)
    recall = overlap(truth[len(tune) :], answer(test), DEFAULT_K)
    turns.hand_over(**facts, build_secs=build_secs, recall=round(recall, 4))
    while True:
        started, asked, secs = time.perf_counter(), 0, 0.0
        while secs < TURN_SECS:
            answer(test)
            asked, secs = asked + len(test), time.perf_counter() - started
        turns.hand_over(queries_per_sec=asked / secs)


def prepare(folder: Path, args: argparse.Namespace) -> tuple[int, int]:
    """Writes vectors, queries and what exact search finds; returns the shape of the vectors."""
    count = 2 * args.queries
    if args.vectors:
        is_store = Path(args.vectors).is_dir()
        x = VectorStore.open(args.vectors).vectors() if is_store else np.load(args.vectors)
        x = x[np.random.default_rng(0).permutation(len(x))[: args.docs + count]]
        docs, queries = x[count:], x[:count]
    else:
        docs = clustered(args.docs, args.dim, 1)
        queries = clustered(count, args.dim, 2)
    with StoreWriter(folder / "store", docs.shape[1], {}, len(docs)) as writer:
        writer.add([str(i) for i in range(len(docs))], docs)
        writer.close()
    truth = exact_search(queries, docs, DEFAULT_K)[1]
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
        round(rates["ivfpq"], 1),
        "queries/s",
        by_fast_scan=round(rates["ours"] / rates["fast_scan"], 3),
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
