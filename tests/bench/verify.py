"""What it costs to see that nothing has to be done: the share of a `scalingnote run` on a finished
workdir that goes into looking at files, with the hashes known to this machine and without.

    python tests/bench/verify.py CONFIG WORKDIR [--section.field=value …]

The last line is one JSON object; `ratio` is the share with known hashes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CHILD = """
import contextlib, io, json, sys, time
began = time.perf_counter()
from scalingnote_jax import cli
from scalingnote_jax.workflow import workdir
spent, inner = 0.0, workdir.problem_in

def timed(*given, **named):
    global spent
    start = time.perf_counter()
    try:
        return inner(*given, **named)
    finally:
        spent += time.perf_counter() - start

workdir.problem_in = timed
with contextlib.redirect_stdout(io.StringIO()):
    code = cli.main(sys.argv[1:])
print(json.dumps({"code": code, "spent": spent, "secs": time.perf_counter() - began}))
"""


def once(words: list[str], cache: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *words],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"SCALINGNOTE_CACHE": cache},
    )  # fmt: skip
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    config, workdir, *overrides = sys.argv[1:]
    words = ["run", config, f"--workdir={workdir}", *overrides]
    size = sum(p.stat().st_size for p in Path(workdir).rglob("*") if p.is_file())
    with tempfile.TemporaryDirectory() as cache:
        unknown, known = once(words, cache), once(words, cache)
    assert unknown["code"] == known["code"] == 0, "finish the workdir first"
    ours, peer = known["spent"], known["secs"]
    more = {"first_spent_secs": round(unknown["spent"], 3), "workdir_bytes": size}
    print(
        json.dumps(
            {"bench": "verify", "ours": round(ours, 4), "peer": round(peer, 2)}
            | {"ratio": round(ours / peer, 4), "unit": "s of a run with nothing to do"}
            | more
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
