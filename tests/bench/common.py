"""What the benches share: both sides of a comparison in turns, the facts of the machine, the last
line.

Each side is a process of its own, so that neither library's threads, allocator or flags touch the
other, and memory is counted apart. Both are set up first; then they work in turns (A B A B …) while
the other waits, so that whatever else the machine does falls on both alike. Not for what is
measured: each bench's own file says that.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

TASK = "BENCH_TASK"  # a side's process finds its task in this variable, as JSON
Result = dict[str, Any]


class Turns:
    """A side's end of the alternation. Made first of all: standard output is the parent's from then
    on, and whatever a library prints goes to standard error.
    """

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def hand_over(self, **result: Any) -> None:
        """Gives the parent what was measured (the first time: what the set-up found), with the peak
        memory so far, and waits for the next turn. Ends the process when there is none.
        """
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        ctypes.CDLL(None).malloc_trim(0)  # freed memory goes to whose turn it is
        print(json.dumps(result | {"peak_bytes": peak}), file=self._out, flush=True)
        if not sys.stdin.readline():
            os._exit(0)  # at once: a trainer that is stopped half-way has nothing to save


def task() -> Result | None:
    """The task of this process, or None in the process that the user started."""
    given = os.environ.get(TASK)
    return json.loads(given) if given else None


class Side:
    """The parent's end: a process that runs `script` with a task."""

    def __init__(self, script: str, what: Result, env: dict[str, str] | None = None):
        """Waits until the set-up is done; `setup` is what it found."""
        self._process = subprocess.Popen(
            [sys.executable, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | (env or {}) | {TASK: json.dumps(what)},
        )
        self.setup = self._answer()

    def turn(self) -> Result:
        """Lets it measure once."""
        print(file=_open(self._process.stdin), flush=True)
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        _open(self._process.stdin).close()
        self._process.wait()

    def _answer(self) -> Result:
        line = _open(self._process.stdout).readline()
        if not line:
            raise SystemExit(f"a side ended with code {self._process.wait()}; see above")
        return json.loads(line)


def _open(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def in_turns(sides: dict[str, Side], rounds: int) -> dict[str, list[Result]]:
    """`rounds` times one turn of each side, in order; side → its results."""
    results: dict[str, list[Result]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            results[name].append(side.turn())
    return results


def median(results: list[Result], field: str) -> float:
    """The median of a number over the turns: one disturbed turn does not count."""
    return statistics.median(result[field] for result in results)


def summarise(results: list[Result], rate: str) -> Result:
    """Medians over the turns, the peak of the memory, and `rate` of each turn."""
    return {f: round(median(results, f), 4) for f in results[0] if f != "peak_bytes"} | {
        f"{rate}_by_turn": [round(r[rate], 2) for r in results],
        "peak_gib": round(max(r["peak_bytes"] for r in results) / 2**30, 2),
    }


def machine(*packages: str) -> Result:
    """Processor, cores, memory, Python, and the versions of `packages` that are installed."""
    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_bytes / 2**30, 1),
        "load": round(os.getloadavg()[0], 2),  # others at work make ratios noisier
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor()
    facts = dict(
        (part.strip() for part in line.split(":", 1))
        for line in info.read_text().split("\n\n")[0].splitlines()
        if ":" in line
    )
    # Virtual machines often hide the name; family and model still tell the generation.
    return (
        f"{facts.get('model name')} (family {facts.get('cpu family')}, model {facts.get('model')})"
    )


def last_line(
    bench: str, ours: float, peer: float, unit: str, *, less_is_better: bool = False, **rest: Any
) -> None:
    """Prints the bench's one JSON object. `ratio` is ours / peer, or peer / ours for memory
    (`less_is_better`), so that more is always better for us except for latencies.
    """
    ratio = peer / ours if less_is_better else ours / peer
    head = {"bench": bench, "ours": ours, "peer": peer, "ratio": round(ratio, 3), "unit": unit}
    print(json.dumps(head | rest), flush=True)
