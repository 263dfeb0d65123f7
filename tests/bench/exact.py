"""Exact search on a CPU: queries per second, against FAISS's flat index.

    bash launch/bench.sh exact       or, inside of .venv-bench: python tests/bench/exact.py

Equal terms: the same unit vectors in memory, k = 100, inner product, float32, all cores; both find
the same documents, which is asserted. Two more sides are the bare matrix product of the same
arrays, blocks of documents in turn, by NumPy (into memory that is there already) and by XLA: the
faster one is the bound of any such search. Processor time, which others at work on the machine
disturb less, is compared too. Then what the other storages and the approximate top-k lose against
exact float32, at the shapes that are served: on an accelerator, run this before trusting them
there.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import common
import numpy as np

K = 100
PRODUCTS = ("numpy", "xla")
STORAGES = ("float32", "bfloat16", "int8")
RECALL_TARGETS = (1.0, 0.95)
BLOCK = 50_000  # documents of one bare product
SERVED = (1, 16, 256)  # queries at once


def unit_vectors(n: int, dim: int, seed: int) -> np.ndarray:
    """[n, dim] float32 around 1000 centres, so that neighbours are near, as in a real corpus."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(1000, dim))
    x = centres[rng.integers(0, 1000, n)] + 0.7 * rng.normal(size=(n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def side(what: common.Result) -> None:
    """One side: sets up, then measures when it is its turn."""
    turns = common.Turns()
    docs = unit_vectors(what["docs"], what["dim"], 1)
    queries = unit_vectors(what["queries"], what["dim"], 2)
    if what["side"] == "ours":
        import jax
        from jax.sharding import Mesh

        from scalingnote_jax.retrieval.exact import exact_search

        mesh = Mesh(np.asarray(jax.devices()), ("data",))

        def search() -> np.ndarray:
            return exact_search(queries, docs, K, mesh=mesh)[1]
    elif what["side"] == "faiss":
        import faiss

        index = faiss.IndexFlatIP(what["dim"])
        index.add(docs)

        def search() -> np.ndarray:
            return index.search(queries, K)[1]
    elif what["side"] == "numpy":
        product = np.empty((len(queries), min(BLOCK, len(docs))), np.float32)

        def search() -> np.ndarray:
            for start in range(0, len(docs), BLOCK):
                block = docs[start : start + BLOCK]
                np.matmul(queries, block.T, out=product[:, : len(block)])
            return product
    else:
        import jax

        multiply = jax.jit(lambda q, d: q @ d.T)

        def search() -> np.ndarray:
            for start in range(0, len(docs), BLOCK):
                last = multiply(queries, docs[start : start + BLOCK]).block_until_ready()
            return np.asarray(last)

    found = search()[:8, :10].tolist()
    turns.hand_over(found=found)
    while True:
        started, cpu_started = time.perf_counter(), time.process_time()
        search()
        cpu_secs = time.process_time() - cpu_started
        rate = len(queries) / (time.perf_counter() - started)
        turns.hand_over(queries_per_sec=rate, cpu_secs=cpu_secs)


def losses(docs: int, dim: int) -> list[common.Result]:
    """Each storage and top-k against exact float32, on all devices."""
    import jax
    from jax.sharding import Mesh

    from scalingnote_jax.config import ExactConfig
    from scalingnote_jax.retrieval.exact import compare

    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    vectors, rows = unit_vectors(docs, dim, 1), []
    for storage in STORAGES:
        for recall_target in RECALL_TARGETS:
            if (storage, recall_target) == ("float32", 1.0):
                continue
            for count in SERVED:
                cfg = ExactConfig(storage=storage, recall_target=recall_target)
                found = compare(unit_vectors(count, dim, 2), vectors, K, cfg, mesh)
                row = {"storage": storage, "recall_target": recall_target, "queries": count}
                shares = {"overlap": round(found.overlap, 4), "score_error": found.score_error}
                rows.append(row | {"docs": docs, "dim": dim} | shares)
                print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    """Compares the sides at each width, and the storages at the first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--dims", type=int, nargs="*", default=[256, 1024])
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    speeds = [compare_speed(args.docs, args.queries, dim, args.rounds) for dim in args.dims]
    common.last_line(
        "exact",
        speeds[0]["ours"],
        speeds[0]["faiss"],
        "queries/s",
        speeds=speeds,
        losses=losses(args.docs, args.dims[0]),
        machine=common.machine("jax", "jaxlib", "numpy", "faiss-cpu"),
    )


def compare_speed(docs: int, queries: int, dim: int, rounds: int) -> common.Result:
    """Medians of queries per second; `of_matmul` is our share of the faster product's rate, and
    `of_matmul_cpu` its processor time over ours.
    """
    shape = {"docs": docs, "queries": queries, "dim": dim}
    names = ("ours", "faiss", *PRODUCTS)
    sides = {name: common.Side(str(Path(__file__)), shape | {"side": name}) for name in names}
    assert sides["ours"].setup["found"] == sides["faiss"].setup["found"], "not the same documents"
    results = common.in_turns(sides, rounds)
    for one in sides.values():
        one.close()
    rates = {
        name: round(common.median(turns, "queries_per_sec"), 1) for name, turns in results.items()
    }
    cpu_secs = {name: common.median(turns, "cpu_secs") for name, turns in results.items()}
    bound = max(PRODUCTS, key=rates.__getitem__)
    shares = {
        "of_matmul": round(rates["ours"] / rates[bound], 3),
        "of_matmul_cpu": round(cpu_secs[bound] / cpu_secs["ours"], 3),
    }
    summary = shape | rates | shares
    print(json.dumps(summary), flush=True)
    return summary


if __name__ == "__main__":
    given = common.task()
    if given is None:
        main()
    else:
        side(given)
