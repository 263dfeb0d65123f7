"""Damaged files for every parser of what comes from outside: nothing but our own error in one line,
no input over 2 s or 500 MB.

    python tests/bench/fuzz.py [--inputs 10000] [--seed 0] [NAME …]

A table with a line for each parser; the last line is one JSON object. Exit 1 if there are faults.
A small sample of it is a test: tests/unit/files/test_fuzz.py.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

from fuzz_runs import run_target  # noqa: E402  (after its path)
from fuzz_targets import TARGETS  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    total, faults = 0, 0
    print(
        f"{'parser':<30}{'inputs':>8}{'refused':>9}{'faults':>8}{'slowest':>9}{'MiB':>6}{'secs':>7}"
    )
    for name in args.names or TARGETS:
        began = time.monotonic()
        found = run_target(TARGETS[name], args.inputs, args.seed)
        wrong = sum(found.faults.values())
        total, faults = total + found.inputs, faults + wrong
        print(
            f"{name:<30}{found.inputs:>8}{found.refused:>9}{wrong:>8}{found.slowest_secs:>8.2f}s"
            f"{found.most_bytes >> 20:>6}{time.monotonic() - began:>7.0f}",
            flush=True,
        )
        for fault, count in found.faults.most_common(5):
            print(f"    {count:>6} × {fault}", flush=True)
    print(json.dumps({"bench": "fuzz", "inputs": total, "faults": faults, "seed": args.seed}))
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
