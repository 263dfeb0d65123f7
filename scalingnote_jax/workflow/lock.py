"""One run at a time in a workdir: a lock that says who holds it, and is taken over from a holder
that is gone.

On the holder's own host its process is looked for. On another host, which shares the disk, the lock
is watched: its holder touches it every few seconds. Not for the processes of one job, of which the
first holds it for all.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scalingnote_jax.errors import UserError, bad_input
from scalingnote_jax.files.typed_json import COUNT, read_json
from scalingnote_jax.progress import say
from scalingnote_jax.workflow.artefact import write_json

LOCK = "lock.json"
BEAT_SECS = 5.0
SILENT_SECS = 30.0  # a holder that has not touched the lock for so long is gone
_FORM = {"host": str, "pid": COUNT, "start": str, "verb": str}


@contextlib.contextmanager
def held(workdir: Path, verb: str) -> Iterator[None]:
    """Holds the lock of a workdir, which exists, while the block runs.

    Raises:
        UserError: another run holds it.
    """
    path, own = workdir / LOCK, _own(verb)
    _take(path, own)
    done = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, done), daemon=True, name="workdir-lock")
    beat.start()
    try:
        yield
    finally:
        done.set()
        beat.join()
        if _read(path) == own:
            path.unlink(missing_ok=True)


def _own(verb: str) -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "start": _start(pid), "verb": verb}


def _take(path: Path, own: dict[str, Any]) -> None:
    while not _create(path, own):
        holder = _read(path)
        if holder == own:
            raise bad_input(str(path), "held by this very process", "one run at a time", "wait")
        if holder is not None and _lives(path, holder):
            raise bad_input(
                str(path.parent),
                f"`scalingnote {holder['verb']}` runs here already: process {holder['pid']} on "
                f"{holder['host']}",
                "one run at a time in a workdir",
                "wait for it, stop it, or choose another --workdir",
            )
        if holder is not None:
            say(
                f"{path.parent}: takes over from process {holder['pid']} on {holder['host']}, "
                "which is gone"
            )
        _clear(path, holder, own)


def _clear(path: Path, stale: dict[str, Any] | None, own: dict[str, Any]) -> None:
    """Takes a stale lock away: of several that have found it one does. If another run has put its
    own there meanwhile, that goes back.
    """
    aside = path.with_name(f"{LOCK}.{own['host']}.{own['pid']}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if _read(aside) != stale:
        with contextlib.suppress(OSError):
            os.link(aside, path)
    aside.unlink()


def _create(path: Path, own: dict[str, Any]) -> bool:
    """Puts the lock in its place with all that it says, unless there is one."""
    partial = path.with_name(f"{LOCK}.{own['host']}.{own['pid']}")
    write_json(partial, own)
    try:
        os.link(partial, path)
    except FileExistsError:
        return False
    except OSError:  # a disk without hard links
        try:
            with path.open("x") as file:
                file.write(partial.read_text())
        except FileExistsError:
            return False
    finally:
        partial.unlink(missing_ok=True)
    return True


def _read(path: Path) -> dict[str, Any] | None:
    """What the lock says; None if it is gone or nobody's."""
    try:
        holder: dict[str, Any] = read_json(path, _FORM, "a lock", "delete it")
    except UserError:
        return None
    return holder


def _lives(path: Path, holder: dict[str, Any]) -> bool:
    if holder["host"] == socket.gethostname():
        return _start(holder["pid"]) == holder["start"] != ""
    before = _touched(path)
    say(f"{path.parent}: held by {holder['host']}; looks for {SILENT_SECS:.0f} s if that is alive")
    until = time.monotonic() + SILENT_SECS
    while time.monotonic() < until:
        time.sleep(min(1.0, BEAT_SECS))
        if _touched(path) != before:
            return _read(path) is not None
    return False


def _touched(path: Path) -> int:
    """When the lock was touched; opened anew, so that a shared disk says the truth."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return 0


def _beat(path: Path, done: threading.Event) -> None:
    while not done.wait(BEAT_SECS):
        with contextlib.suppress(OSError):
            os.utime(path)


def _start(pid: int) -> str:
    """What tells a process from a later one of the same number: the boot, and its start in ticks
    since then; "" if there is none.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "" if not _exists(pid) else "?"  # no /proc: the number alone
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else f"{boot} {fields[19]}"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
