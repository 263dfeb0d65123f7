"""All processes of a job say hello to process 0 before JAX's own runtime starts, so that the late
ones can be named: JAX kills the process after its timeout, and says nobody's name.

It uses the coordinator's own port, the one that JAX takes next: what is reachable here is reachable
there. Standard library only. The connections may be kept: `together.py` goes on with them.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from scalingnote_jax.devices.connection import Connection
from scalingnote_jax.devices.job import Job
from scalingnote_jax.errors import UserError, bad_input

HELLO = "scalingnote_jax"
RETRY_SECS = 0.5
STRANGER_SECS = 5.0  # how long something that connects may say nothing
MAX_NAMED = 8  # of a thousand missing hosts these say enough
FAILED_TIMEOUT_SECS = 30  # of a process that has failed before it joined
FAILED = "failed"  # the fact of a process that comes only to say why it will not take part


@dataclass(frozen=True)
class Arrival:
    """What one process told."""

    name: str  # for messages: its number and host name
    facts: dict[str, Any]  # plain JSON values
    clock_ahead_secs: float  # its clock against process 0's


Judge = Callable[[list[Arrival]], list[str]]


def meet(
    job: Job,
    timeout_secs: float,
    facts: dict[str, Any] | None = None,
    judge: Judge = lambda arrivals: [],
    kept: dict[int, Connection] | None = None,
) -> list[str]:
    """Waits until all processes of `job` are here. Process 0 hands what they told, in their order,
    to `judge`; every process returns its answer, a list of problems.

    Args:
        kept: the connections are put here, by the number of the other process, and stay open.

    Raises:
        UserError: on every process that came, if some did not come in `timeout_secs`, or one came
            with the fact `FAILED`; process 0's port is taken; process 0 does not answer.
    """
    lines: dict[int, Connection] = {}
    meets = _receive if job.index == 0 else _report
    try:
        problems = meets(job, timeout_secs, facts or {}, judge, lines)
        if kept is not None:
            kept |= lines
            lines = {}
        return problems
    finally:
        for line in lines.values():
            line.close()


def _receive(
    job: Job, timeout_secs: float, facts: dict[str, Any], judge: Judge, lines: dict[int, Connection]
) -> list[str]:
    deadline = time.monotonic() + timeout_secs
    arrivals = {0: Arrival(_name(0, socket.gethostname()), facts, 0.0)}
    with _listen(job) as server:
        while len(arrivals) < job.count and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            with suppress(TimeoutError):
                line = Connection(server.accept()[0])
                try:
                    index, arrivals[index] = _hear(line, job.count)
                    lines[index] = line
                    if FAILED in arrivals[index].facts:  # the others need not be waited for long
                        deadline = min(deadline, time.monotonic() + FAILED_TIMEOUT_SECS)
                # Whatever else finds this port (a scanner, JAX of an earlier run) is let go.
                except (OSError, ValueError, KeyError, TypeError):
                    line.close()
        missing = [i for i in range(job.count) if i not in arrivals]
        error = str(_missing(job, missing, timeout_secs)) if missing else ""
        for arrival in arrivals.values():
            if said := arrival.facts.get(FAILED):
                error = f"{arrival.name}: {said}"
        problems = [] if error else judge([arrivals[i] for i in range(job.count)])
        for line in lines.values():
            with suppress(OSError):
                line.send({"error": error, "problems": problems})
    if error:
        raise UserError(error)
    return problems


def _listen(job: Job) -> socket.socket:
    port = int(job.coordinator.rsplit(":", 1)[1])
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", port), family=socket.AF_INET6, backlog=job.count, dualstack_ipv6=True
            )
        return socket.create_server(("", port), backlog=job.count)
    except OSError as e:
        raise bad_input(
            f"port {port} on {job.name(0)}",
            f"cannot listen ({e.strerror})",
            "a free port",
            "end the process of an earlier run there, or set JAX_COORDINATOR_PORT on all hosts",
        ) from e


def _hear(line: Connection, count: int) -> tuple[int, Arrival]:
    """The hello of one process; OSError, ValueError, KeyError or TypeError if it is none."""
    line.connection.settimeout(STRANGER_SECS)
    # The clock is read on both sides with nothing but the network between.
    line.send({"hello": HELLO, "time": time.time()})
    said = line.read()
    index = int(said["index"])
    if said["hello"] != HELLO or not 0 < index < count:
        raise ValueError(f"not of this job: {said}")
    return index, Arrival(
        _name(index, said["host"]), dict(said["facts"]), float(said["clock_ahead_secs"])
    )


def _report(
    job: Job, timeout_secs: float, facts: dict[str, Any], _: Judge, lines: dict[int, Connection]
) -> list[str]:
    host, port = job.coordinator.rsplit(":", 1)
    deadline = time.monotonic() + timeout_secs
    last = "no attempt"
    while time.monotonic() < deadline:
        try:
            to_first = socket.create_connection((host.strip("[]"), int(port)), STRANGER_SECS)
            lines[0] = line = Connection(to_first)
            heard = line.read()
            if heard["hello"] != HELLO:
                raise ValueError("another program")
            hello = {"hello": HELLO, "index": job.index, "host": socket.gethostname()}
            ahead = {"clock_ahead_secs": time.time() - heard["time"]}
            line.send(hello | ahead | {"facts": facts})
            # Process 0 may have begun to wait just now, and may wait as long as we.
            to_first.settimeout(timeout_secs + STRANGER_SECS)
            answer = line.read()
        except (OSError, ValueError, KeyError, TypeError) as e:
            if lines:
                lines.pop(0).close()
            last = getattr(e, "strerror", None) or str(e) or type(e).__name__
            time.sleep(RETRY_SECS)
            continue
        if answer["error"]:
            raise UserError(answer["error"])
        return list(answer["problems"])
    raise bad_input(
        f"{job.name(job.index)} of {job.count}",
        f"no answer from {job.name(0)} at {job.coordinator} in {timeout_secs:.0f} s ({last})",
        "process 0 to be running",
        "start the same command on every host, and let the port through the firewall",
    )


def _missing(job: Job, missing: list[int], timeout_secs: float) -> UserError:
    named = ", ".join(job.name(i) for i in missing[:MAX_NAMED])
    more = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
    return bad_input(
        "multi-host start",
        f"{job.count - len(missing)} of {job.count} hosts came in {timeout_secs:.0f} s; "
        f"missing: {named}{more}",
        "all of them",
        "start the same command on every host, and look there for the reason",
    )


def _name(index: int, host: str) -> str:
    return f"host {index} ({host})"
