"""Runs a command as N local JAX processes that form one job, as N hosts of a pod would (gloo, CPU).

    python launch/local_processes.py 2 -- scalingnote train configs/quickstart.py

A free port is chosen; the first process that fails has all others killed and the end of its log
shown. Standard library only.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LOG_LINES = 40
POLL_SECS = 0.1
GRACE_SECS = 5.0


def free_port() -> int:
    """A TCP port that nobody listens on right now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(count: int, command: list[str], logs: Path) -> list[subprocess.Popen[bytes]]:
    """Starts the processes, each with a log of its own; the first one's is printed at the end."""
    coordinator = f"127.0.0.1:{free_port()}"
    processes = []
    for i in range(count):
        env = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "SCALINGNOTE_COORDINATOR": coordinator,
            "SCALINGNOTE_PROCESSES": str(count),
            "SCALINGNOTE_PROCESS_ID": str(i),
        }
        log = (logs / f"process-{i}.log").open("wb")
        # A session of its own, so that a process and its children can be killed together.
        processes.append(
            subprocess.Popen(
                command, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        )
    return processes


def wait(processes: list[subprocess.Popen[bytes]]) -> int | None:
    """The index of the first process that fails, or None when all succeed."""
    while True:
        codes = [p.poll() for p in processes]
        failed = [i for i, code in enumerate(codes) if code not in (None, 0)]
        if failed:
            return failed[0]
        if all(code == 0 for code in codes):
            return None
        time.sleep(POLL_SECS)


def kill(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ends whatever still runs: first asked, then made to."""
    for sig, patience in ((signal.SIGTERM, GRACE_SECS), (signal.SIGKILL, GRACE_SECS)):
        running = [p for p in processes if p.poll() is None]
        for p in running:
            os.killpg(p.pid, sig)
        deadline = time.monotonic() + patience
        while any(p.poll() is None for p in running) and time.monotonic() < deadline:
            time.sleep(POLL_SECS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int, help="number of processes")
    parser.add_argument("command", nargs="+", help="after --: what each of them runs")
    args = parser.parse_args()
    if args.count < 1:
        parser.error("at least one process")
    logs = Path(tempfile.mkdtemp(prefix="local-processes-"))
    processes = start(args.count, args.command, logs)
    try:
        failed = wait(processes)
    finally:
        kill(processes)
    shown = 0 if failed is None else failed
    lines = (logs / f"process-{shown}.log").read_text(errors="replace").splitlines()
    if failed is None:
        print("\n".join(lines))
        return 0
    code = processes[failed].returncode
    print("\n".join(lines[-LOG_LINES:]), file=sys.stderr)
    print(f"process {failed} of {args.count} ended with {code}; logs: {logs}", file=sys.stderr)
    return code if code > 0 else 1


if __name__ == "__main__":
    raise SystemExit(main())
