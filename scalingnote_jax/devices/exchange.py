"""Process 0's side of `together.py`: it hears all processes of the job and answers all. One thread,
which only passes messages on, so that it answers while the main thread works.
"""

from __future__ import annotations

import selectors
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from scalingnote_jax.devices.connection import Connection

if TYPE_CHECKING:
    from scalingnote_jax.devices.job import Job

LATE_SECS = 60.0
POLL_SECS = 1.0
SILENT_SECS = 300.0  # a process that is there, but says nothing: frozen
MAX_NAMED = 8


class Exchange:
    """Serves the processes of a job until the last is gone.

    Attributes:
        gone: set when all other processes have closed their connections.
    """

    def __init__(self, job: Job, lines: dict[int, Connection]):
        self.gone = threading.Event()
        self._job, self._lines = job, lines
        now = time.monotonic()
        self._passed = dict.fromkeys(lines, 0)
        self._behind: dict[int, tuple[int, float]] = {}  # what it has passed, and since when
        self._heard = dict.fromkeys(lines, now)
        self._place = dict.fromkeys(lines, "the start")
        self._meetings: dict[int, dict[int, tuple[str, Any]]] = {}
        self._frozen: dict[int, tuple[int, bool]] = {}
        self._signum = 0
        self._ending = self._leaving = False
        self._tell_late_at = LATE_SECS
        self._selector = selectors.DefaultSelector()
        for index, line in lines.items():
            line.keep_open()
            self._selector.register(line.connection, selectors.EVENT_READ, index)
        threading.Thread(target=self._serve, daemon=True, name="exchange").start()

    def _serve(self) -> None:
        while self._lines.keys() - {0}:
            for key, _ in self._selector.select(POLL_SECS):
                self._read(key.data)
            self._look_for_late()
        self.gone.set()

    def _read(self, index: int) -> None:
        line = self._lines[index]
        try:
            came = line.take() if line.fill() else None
        except (OSError, ValueError):
            came = None
        if came is None:
            self._selector.unregister(line.connection)
            del self._lines[index]
            if not (self._leaving or self._ending):
                self._end(f"{self._name(index)} is lost: its process or its machine ended", 1)
            return
        self._heard[index] = time.monotonic()
        for message in came:
            self._hear(index, message)

    def _hear(self, index: int, message: dict[str, Any]) -> None:
        if "meet" in message:
            self._moved(index, message["meet"], message["place"])
            self._met(index, message)
        elif "passed" in message:
            self._moved(index, message["passed"], message["place"])
        elif "failed" in message:
            self._end(f"{self._name(index)}: {message['failed']}", message["code"])
        elif "signal" in message and not self._signum:
            self._signum = message["signal"]
            self._tell_all({"stopping": self._signum})
        elif "frozen" in message:
            self._froze(index, message)

    def _moved(self, index: int, passed: int, place: str) -> None:
        if passed > self._passed[index]:
            self._passed[index], self._place[index] = passed, place

    def _met(self, index: int, message: dict[str, Any]) -> None:
        number, place = message["meet"], message["place"]
        here = self._meetings.setdefault(number, {})
        here[index] = (place, message["brought"])
        first, (expected, _) = next(iter(here.items()))
        if place != expected:  # a fault of ours: they would wait for ever
            given = f"{self._name(index)} is at {place!r}, {self._name(first)} at {expected!r}"
            self._end(f"{given}; all processes of a job must do the same", 1)
        elif len(here) == self._job.count:
            del self._meetings[number]
            self._leaving = place == "the end"
            self._tell_all({"met": number, "answers": [here[i][1] for i in range(self._job.count)]})

    def _froze(self, index: int, message: dict[str, Any]) -> None:
        self._frozen[index] = (message["frozen"], message["trains"])
        if len(self._frozen) < self._job.count:
            return
        if any(trains for _, trains in self._frozen.values()):
            self._tell_all({"stop_at": max(passed for passed, _ in self._frozen.values()) + 1})
        else:
            name = signal.Signals(self._signum).name
            self._end(f"stopped by {name}, nothing had to be saved", 128 + self._signum)

    def _look_for_late(self) -> None:
        """Names those that the others have waited for since a minute, or that are silent."""
        now, most = time.monotonic(), max(self._passed.values())
        if self._ending or self._leaving:
            return
        for i, passed in self._passed.items():
            if passed == most or i not in self._lines:
                self._behind.pop(i, None)
            elif self._behind.get(i, (-1, now))[0] != passed:
                self._behind[i] = (passed, now)
        silent = [i for i in self._lines if now - self._heard[i] > SILENT_SECS]
        if silent:
            self._end(f"{self._names(silent)} said nothing for {SILENT_SECS:.0f} s", 1)
            return
        waits = {i: now - since for i, (_, since) in self._behind.items()}
        for i in self._lines:
            waits[i] = max(waits.get(i, 0.0), now - self._heard[i])
        late = sorted(i for i, secs in waits.items() if secs >= LATE_SECS)
        longest = max((waits[i] for i in late), default=0.0)
        if not late:
            self._tell_late_at = LATE_SECS
        elif longest >= self._tell_late_at:
            self._tell_late_at *= 2  # each time after twice as long
            places = ", ".join(sorted({self._place[i] for i in late}))
            said = f"waiting for {self._names(late)} for {longest:.0f} s"
            self._tell_all({"late": f"{said}, last heard of after: {places}"})

    def _end(self, line: str, code: int) -> None:
        if not self._ending:
            self._ending = True
            self._tell_all({"end": line, "code": code})

    def _tell_all(self, message: dict[str, Any]) -> None:
        for line in list(self._lines.values()):
            with suppress(OSError):
                line.send(message)

    def _name(self, index: int) -> str:
        return self._job.name(index)

    def _names(self, indices: list[int]) -> str:
        named = ", ".join(self._name(i) for i in indices[:MAX_NAMED])
        more = len(indices) - MAX_NAMED
        return named if more <= 0 else f"{named} and {more} more"
