"""SIGTERM, by which a cluster says that it takes the machine back: the run saves where it is, and
ends. The same command goes on from there.

With several processes JAX's own service spreads the news, so that all stop after the same step,
whichever process got the signal.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

EXIT_CODE = 128 + signal.SIGTERM  # what a shell shows of a process that the signal ended


class Preempted(SystemExit):
    """Ends the process after its checkpoint is written."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


class Watch:
    """Knows whether this run is to stop."""

    def __init__(self) -> None:
        self._told = False

    def stop_after(self, step: int) -> bool:
        """Whether `step` is the last. The same answer in all processes of a job."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            return multihost_utils.reached_preemption_sync_point(step)
        return self._told

    def tell(self, *_: Any) -> None:
        """The signal's handler: no more than a note, as a step may be under way."""
        self._told = True


@contextmanager
def watch() -> Iterator[Watch]:
    """Listens for SIGTERM inside the block. In another thread than the main one, where Python lets
    nobody listen, and in a job, where JAX does, it changes no handler.
    """
    watching = Watch()
    alone = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, watching.tell) if alone else None
    try:
        yield watching
    finally:
        if alone:
            signal.signal(signal.SIGTERM, before)
