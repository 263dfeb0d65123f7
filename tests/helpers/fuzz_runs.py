"""Damaged inputs for a parser, thousands of them, and what it does with each: in a process of its
own, with a limit of time and memory. Which parsers there are is in `fuzz_targets.py`.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MOST_SECS, MOST_BYTES = 2.0, 500 * 2**20  # of one input
HANGS_SECS = 30.0  # then it is killed
SPECIAL: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 2**64, 10**40, -(10**400), 1e308, 0.5, "", "x", "../x",
    "/etc/passwd", "a/../../b", "\ud800", "\x00", "x" * 5000, [], {}, [[]], ["x"], [0], {"x": {}},
]  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
        make: writes good input into an empty folder, and says which files of it are damaged.
        parse: reads it, from that folder.
        repair: writes the hashes of a damaged file where they are kept, so that the file itself is
            read: what a stranger would do.
    """

    make: Callable[[Path], list[str]]
    parse: Callable[[Path], object]
    repair: Callable[[Path, str], None] | None = None


@dataclass
class Outcome:
    """What came of a target's inputs."""

    inputs: int = 0
    refused: int = 0
    slowest_secs: float = 0.0
    most_bytes: int = 0
    faults: Counter[str] = field(default_factory=Counter)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The bytes of a file with some damage; half of the time, if it is JSON, as JSON."""
    if rng.random() < 0.5:
        with contextlib.suppress(ValueError, RecursionError, IndexError):
            return _damaged_json(content, rng)
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 2, 4, 8, 64)))
        how = rng.randrange(6)
        if how == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            data[at:end] = rng.choice((b"", b"\x00" * 8, b"\xff" * 8))
        elif how == 2:
            data[at:at] = rng.randbytes(rng.choice((1, 4, 16)))
        elif how == 3:
            del data[at:]
        elif how == 4:
            data[at:end] = rng.choice((b"9" * 400, b"[" * 2000, b"{", b'"', b"\t", b"\n", b" "))
        else:
            other = rng.randrange(len(data) + 1)
            data[at:end] = data[other : other + end - at]
    return bytes(data)


def _damaged_json(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines() if content.count(b"\n{") else [content]
    number = rng.randrange(len(lines))
    value = json.loads(lines[number])
    if rng.random() < 0.03:
        lines[number] = b"[" * 100_000
    else:
        for _ in range(rng.choice((1, 1, 2, 3))):
            value = _changed(value, rng)
        lines[number] = json.dumps(value).encode()
    return b"\n".join(lines) + b"\n"


def _changed(value: Any, rng: random.Random) -> Any:
    """With one value inside replaced, removed or renamed."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.05:
        return copy.deepcopy(rng.choice(SPECIAL))
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = rng.choice(keys)
    how = rng.random()
    if how < 0.1:
        del value[key]
    elif how < 0.15 and isinstance(value, dict):
        value[rng.choice(("x", "../x", "", "file"))] = value.pop(key)
    else:
        value[key] = _changed(value[key], rng)
    return value


def run_target(target: Target, count: int, seed: int) -> Outcome:
    """`count` damaged inputs through a parser; the process that does it is started again after it
    has died or taken too much.
    """
    outcome, start = Outcome(), 0
    while start < count:
        start = _in_process(target, start, count, seed, outcome)
    return outcome


def _in_process(target: Target, start: int, count: int, seed: int, outcome: Outcome) -> int:
    """Inputs from `start` on in a child; returns the number of the next one."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _child(target, start, count, seed, os.fdopen(write, "w", buffering=1))
        os._exit(0)
    os.close(write)
    number = start - 1
    with os.fdopen(read) as lines:
        for line in _lines_until_silent(lines, child):
            said = json.loads(line)
            number = said["number"]
            outcome.inputs += 1
            outcome.refused += said["refused"]
            outcome.slowest_secs = max(outcome.slowest_secs, said["secs"])
            outcome.most_bytes = max(outcome.most_bytes, said["bytes"])
            if said["fault"]:
                outcome.faults[said["fault"]] += 1
    _, status = os.waitpid(child, 0)
    if number < count - 1 and status != 0:
        ended = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {status}"
        outcome.faults[f"the process ended: {ended} (input {number + 1})"] += 1
        outcome.inputs += 1
        return number + 2
    return number + 1


def _lines_until_silent(lines: io.TextIOBase, child: int) -> Iterator[str]:
    def silent(*_: object) -> None:
        os.kill(child, signal.SIGKILL)

    before = signal.signal(signal.SIGALRM, silent)
    try:
        signal.alarm(int(HANGS_SECS * 4))  # making the good input takes a while
        for line in iter(lines.readline, ""):
            signal.alarm(int(HANGS_SECS))
            yield line
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _child(target: Target, start: int, count: int, seed: int, out: io.TextIOBase) -> None:
    sys.stderr = io.StringIO()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)  # of libraries in C++
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "x"
        folder.mkdir()
        names = target.make(folder)
        good = {name: (folder / name).read_bytes() for name in names}
        others = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        target.parse(folder)  # it is good; and what is imported is not the inputs' time
        most = _peak()
        for number in range(start, count):
            rng = random.Random(f"{seed} {number}")
            name = rng.choice(names)
            (folder / name).write_bytes(damaged(good[name], rng))
            if target.repair is not None:
                target.repair(folder, name)
            said = _one(target, folder) | {"number": number, "bytes": _peak() - most}
            if said["bytes"] > MOST_BYTES:
                said["fault"] = said["fault"] or f"{said['bytes'] >> 20} MiB"
            out.write(json.dumps(said) + "\n")
            if said["bytes"] > MOST_BYTES:
                os._exit(0)  # the peak does not fall
            for path, content in others.items():
                if not path.is_file() or path.read_bytes() != content:
                    path.write_bytes(content)


def _one(target: Target, folder: Path) -> dict[str, Any]:
    from scalingnote_jax.errors import UserError

    began, refused, fault = time.process_time(), False, ""
    try:
        target.parse(folder)
    except UserError as e:
        refused = True
        if "\n" in str(e):
            fault = "more than one line"
    except BaseException as e:
        place = traceback.extract_tb(e.__traceback__)[-1]
        fault = f"{type(e).__name__} at {Path(place.filename).name}:{place.lineno}"
    secs = time.process_time() - began  # of CPU: other work on the machine is not its
    if secs > MOST_SECS:
        fault = fault or f"{secs:.0f} s"
    return {"refused": refused, "fault": fault, "secs": secs}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
