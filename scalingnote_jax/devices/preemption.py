"""SIGTERM, by which a cluster says that it takes the machine back, and SIGINT, by which a person
does: a training saves where it is and ends, anything else ends at once, as there is nothing to
save. The same command goes on from there. A second signal ends the process whatever it does.

In a job all processes stop after the same step, whichever of them got the signal; they agree on it
in `together.py`.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from scalingnote_jax.devices import together
from scalingnote_jax.devices.together import Stopped

# How long something that does not run Python, such as a compilation, may keep the process from
# ending; it is ended then
GRACE_SECS = 10.0
SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it


class Watch:
    """Knows whether a training is to stop."""

    def __init__(self) -> None:
        self.signum = 0

    def stop_after(self, place: str) -> bool:
        """Whether the step that was just launched is the last. The same answer in all processes of
        a job.

        Args:
            place: the step, as a person finds it.
        """
        job = together.current()
        if job is not None:
            self.signum = job.passed(place)
        return bool(self.signum)


_watch: Watch | None = None  # of the training that runs now
_installed = False


@contextmanager
def watch() -> Iterator[Watch]:
    """The block is a training: a signal makes it stop after a step instead of at once.

    Raises:
        Stopped: at the end of the block, if a signal came inside it.
    """
    global _watch
    watching = Watch()
    with nullcontext() if _installed else signals((signal.SIGTERM,)):
        _watch = watching
        if (job := together.current()) is not None:
            job.trains = True
        try:
            yield watching
        finally:
            _watch = None
            if job is not None:
                job.trains = False
    if watching.signum:
        raise Stopped(watching.signum)


@contextmanager
def signals(
    which: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGINT),
) -> Iterator[None]:
    """Listens to these signals inside the block. In another thread than the main one, where Python
    lets nobody listen, it does not.
    """
    global _installed
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    nested, _installed = _installed, True
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before_fd = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    before = {signum: signal.signal(signum, _on_signal) for signum in which}
    listener = threading.Thread(target=_listen, args=(ours, which), daemon=True, name="signals")
    listener.start()
    try:
        yield
    finally:
        _installed = nested
        for signum, handler in before.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(before_fd)
        theirs.close()  # ends the listener
        listener.join()
        ours.close()


def _on_signal(signum: int, _: Any) -> None:
    """In the main thread, between two lines of Python."""
    if together.current() is not None:
        return  # the listener asks the others
    if _watch is not None:
        _watch.signum = signum
    else:
        raise Stopped(signum)


def _listen(wakes: socket.socket, which: tuple[signal.Signals, ...]) -> None:
    """In a thread of its own, which runs while the main one compiles or waits for a device. Leaves
    a signal alone for which somebody else, such as a server, has a handler now.
    """
    came, last = 0, 0.0
    while True:
        waits = came and _watch is None and together.current() is None
        wakes.settimeout(max(0.01, last + GRACE_SECS - time.monotonic()) if waits else 1.0)
        try:
            read = wakes.recv(16)
        except TimeoutError:
            if waits and time.monotonic() - last >= GRACE_SECS:
                _end(came, f"ended inside of what cannot be interrupted{together.how_to_resume()}")
            continue
        if not read:
            return
        ours = (n for n in read if n in which and signal.getsignal(n) is _on_signal)
        for signum in ours:
            if came:
                _end(signum, "told twice, ended at once")
            came, last = signum, time.monotonic()
            if (job := together.current()) is not None:
                job.tell_signal(signum)


def _end(signum: int, why: str) -> None:
    shown = SHOW_CURSOR if sys.stderr.isatty() else ""
    os.write(2, f"{shown}scalingnote: {signal.Signals(signum).name}: {why}\n".encode())
    os._exit(128 + signum)
