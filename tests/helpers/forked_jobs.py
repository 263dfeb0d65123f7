"""Jobs of a few processes in which something goes wrong, without devices: the processes are forked
from this one, before it has used any.

    python tests/helpers/forked_jobs.py

Prints one JSON object: case → for each process its exit code, seconds and what it printed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from scalingnote_jax.devices import exchange, together
from scalingnote_jax.devices.connection import Connection
from scalingnote_jax.devices.ending import run_to_end
from scalingnote_jax.devices.job import COORDINATOR, PROCESS_ID, PROCESSES, find_job
from scalingnote_jax.devices.mesh import on_any_process
from scalingnote_jax.devices.preemption import watch
from scalingnote_jax.devices.rendezvous import meet
from scalingnote_jax.errors import bad_input

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "launch"))
from local_processes import free_port

LIMIT_SECS = 60
COMMAND = "scalingnote run x.py"


def join() -> together.Together:
    """As `mesh.start`, without JAX's own runtime."""
    job, lines = find_job(20), dict[int, Connection]()
    assert job is not None
    together.expected = False
    meet(job, 40, kept=lines)
    return together.join(job, lines)


def error(me: int) -> None:
    """Process 1 finds a mistake of the user while process 0 waits for it."""
    job = join()
    if me == 1:
        raise bad_input("corpus.jsonl:7", "no text", "a text", "add one")
    job.meet("the other side")


def typo(me: int) -> None:
    """Process 1 fails before it joins."""
    together.expected = True
    if me == 1:
        raise bad_input("--seed", "x", "a number", "give one")
    join()


def fault(me: int) -> None:
    """Process 1 has a fault of ours."""
    job = join()
    print(1 // (1 - me))
    job.meet("the other side")


def killed(me: int, victim: int = 1) -> None:
    """A process is gone without a word."""
    job = join()
    job.meet("before")
    if me == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    job.meet("after")


def first_killed(me: int) -> None:
    """Process 0 is."""
    killed(me, 0)


def late(me: int) -> None:
    """Process 1 comes three seconds after the others."""
    exchange.LATE_SECS, exchange.POLL_SECS, together.PING_SECS = 1.0, 0.2, 0.2
    job = join()
    job.meet("loading")
    time.sleep(3 if me == 1 else 0)
    job.meet("training")


def frozen(me: int) -> None:
    """Process 1 is there, but does nothing."""
    exchange.LATE_SECS, exchange.SILENT_SECS, exchange.POLL_SECS = 2.0, 5.0, 0.2
    together.PING_SECS = 0.2
    job = join()
    job.meet("loading")
    if me == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    job.meet("training")


def apart(me: int) -> None:
    """The processes do not do the same."""
    join().meet("encoding" if me else "training")


def agreed(me: int) -> None:
    """What the first brings, all follow; what any finds, all know."""
    job = join()
    first = job.meet("who decides", f"said by {me}")[0]
    print(json.dumps([first, on_any_process(me == 1), on_any_process(False)]))


def told_in_training(me: int) -> None:
    """Process 2 gets SIGTERM in its fifth step; each says which one was its last."""
    join()
    with watch() as stopping:
        for step in range(1, 1000):
            time.sleep(0.02 * (me + 1))  # they are not equally fast
            if me == 2 and step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            if stopping.stop_after(f"step {step}"):
                print(step)
                break


def told_outside(me: int) -> None:
    """Process 1 gets SIGINT while nothing is trained."""
    job = join()
    if me == 1:
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(20)
    job.meet("never")


def alone_outside(_: int) -> None:
    """One process, and nothing to save."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(20)


def alone_twice(_: int) -> None:
    """A training that would save first is told a second time."""
    with watch():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(20)


def alone_full_disk(_: int) -> None:
    """What the system refuses is one line."""
    with Path("/dev/full").open("w") as f:
        f.write("x" * 100_000)


CASES: dict[Callable[[int], None], int] = {
    error: 3,
    typo: 2,
    fault: 2,
    killed: 3,
    first_killed: 2,
    late: 2,
    frozen: 2,
    apart: 2,
    agreed: 2,
    told_in_training: 3,
    told_outside: 2,
    alone_outside: 1,
    alone_twice: 1,
    alone_full_disk: 1,
}


def start(case: Callable[[int], None], count: int, folder: Path) -> list[int]:
    """Forks the processes of a case; their numbers."""
    os.environ |= {COORDINATOR: f"127.0.0.1:{free_port()}", PROCESSES: str(count)}
    children = []
    for index in range(count):
        if child := os.fork():
            children.append(child)
        else:
            os.environ[PROCESS_ID] = str(index)
            out = os.open(folder / f"{case.__name__}-{index}", os.O_WRONLY | os.O_CREAT)
            os.dup2(out, 1)
            os.dup2(out, 2)
            code = run_to_end(partial(case, index), COMMAND)
            sys.stdout.flush()
            os._exit(code)
    return children


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, begun = Path(name), time.monotonic()
        running = {
            child: (case.__name__, index)
            for case, count in CASES.items()
            for index, child in enumerate(start(case, count, folder))
        }
        ended: dict[str, dict[int, tuple[int, float, str]]] = {}
        while running and time.monotonic() - begun < LIMIT_SECS:
            child, status = os.waitpid(-1, os.WNOHANG)
            if child == 0:
                time.sleep(0.05)
                continue
            case, index = running.pop(child)
            said = (folder / f"{case}-{index}").read_text()
            code, secs = os.waitstatus_to_exitcode(status), time.monotonic() - begun
            ended.setdefault(case, {})[index] = (code, secs, said)
        for child in running:  # among them the one that is frozen
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        print(json.dumps(ended))


if __name__ == "__main__":
    main()
