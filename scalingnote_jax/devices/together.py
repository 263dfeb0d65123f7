"""The processes of a job agree, wait and end together: the one way for it.

Each process keeps the connection by which it said hello to process 0 (`rendezvous.py`); nothing
else of the network is needed. Over it go

- meetings: every process waits until all are there, and gets what each has brought. A value that
  only process 0 brings is how the first decides and all follow;
- the end: the line and the exit code of a process that fails reach all, and all end with them. So
  does the loss of a process: its connection closes, also when the machine is gone;
- who is late: a process that is behind the others for a minute is named by all that wait for it;
- a signal that one of them got: all stop after the same step.

Every process passes the same places in the same order, meetings and steps of training. Their number
is what is compared. A thread serves the connection, so that all of this also works while the main
thread waits inside of a collective. Standard library only; not for arrays.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from scalingnote_jax.devices.connection import Connection
from scalingnote_jax.devices.exchange import Exchange

if TYPE_CHECKING:
    from scalingnote_jax.devices.job import Job

PING_SECS = 5.0
END_SECS = 5.0  # for the line of a failing process to reach the others


# The command that goes on with what was stopped, as a person types it
command = ""


def how_to_resume() -> str:
    """The end of a line about a stop."""
    return f"; resume with: {command}" if command else ""


class Stopped(SystemExit):
    """Ends the process: it was told to, and what there was to save is saved. In a job all
    processes stop here.
    """

    def __init__(self, signum: int):
        super().__init__(128 + signum)  # what a shell shows of a process that the signal ended
        self.signal = signal.Signals(signum).name


class Together:
    """This process's part in it.

    Args:
        line: the connection to process 0; in process 0 itself, to its exchange.
        exchange: in process 0.
    """

    def __init__(self, job: Job, line: Connection, exchange: Exchange | None):
        self.job, self.trains = job, False
        self._line, self._exchange = line, exchange
        self._passed, self._place = 0, "the start"
        self._news = threading.Condition()
        self._answers: dict[int, list[Any]] = {}
        self._signum, self._stop_at = 0, 0
        self._failing = self._leaving = False
        self._ended = threading.Event()
        line.keep_open()
        for name, task in (("together", self._listen), ("pings", self._ping)):
            threading.Thread(target=task, daemon=True, name=name).start()

    def meet(self, place: str, brought: Any = None) -> list[Any]:
        """Waits until all processes are here; what each has brought (plain JSON), in their order.

        Raises:
            Stopped: a signal came to one of them, and this is where all stop.
        """
        number = self._pass(place)
        self._send({"meet": number, "place": place, "brought": brought})
        with self._news:
            self._news.wait_for(lambda: number in self._answers)
            answer = self._answers.pop(number)
        if not self._leaving and (signum := self._stops(number)):
            raise Stopped(signum)
        return answer

    def passed(self, place: str) -> int:
        """Notes that a step is launched; the signal for which all stop after it, or 0."""
        return self._stops(self._pass(place))

    def tell_signal(self, signum: int) -> None:
        """A signal came to this process."""
        self._send({"signal": signum})

    def fail(self, line: str, code: int, patience_secs: float, trace: str = "") -> NoReturn:
        """Ends all processes of the job, this one too, with `line` and `code`.

        Args:
            patience_secs: how long another reason may come first, such as a lost process, of which
                this failure is only the consequence.
            trace: printed by this process alone.
        """
        if self._ended.wait(patience_secs):
            time.sleep(END_SECS)  # the listener ends this process
        self._failing = True
        print(f"{trace}scalingnote: {line}", file=sys.stderr, flush=True)
        self._send({"failed": line, "code": code})
        self._ended.wait(END_SECS)
        self._exit(code)

    def leave(self) -> None:
        """Waits for the others at the end; nobody is missed from then on."""
        self._leaving = True
        self.meet("the end")

    def _pass(self, place: str) -> int:
        with self._news:
            self._passed, self._place = self._passed + 1, place
            return self._passed

    def _stops(self, number: int) -> int:
        """The signal, if `number` is where all stop. Waits until that is agreed upon, if one came:
        the others must not be passed by.
        """
        with self._news:
            if self._signum:
                self._news.wait_for(lambda: self._stop_at)
            return self._signum if self._stop_at and number >= self._stop_at else 0

    def _send(self, message: dict[str, Any]) -> None:
        with suppress(OSError):  # the listener finds out that the other end is gone
            self._line.send(message)

    def _ping(self) -> None:
        while not self._ended.wait(PING_SECS):
            self._send({"passed": self._passed, "place": self._place})

    def _listen(self) -> None:
        with suppress(OSError, ValueError):
            while True:
                self._hear(self._line.read())
        if not self._leaving:
            self._finish(f"{self.job.name(0)} is lost: its process or its machine ended", 1)

    def _hear(self, message: dict[str, Any]) -> None:
        if "end" in message:
            self._finish(message["end"], message["code"])
        elif "late" in message:
            print(f"scalingnote: {message['late']}", file=sys.stderr, flush=True)
        elif "stopping" in message:
            with self._news:
                self._signum = message["stopping"]
                passed, trains = self._passed, self.trains
            self._send({"frozen": passed, "trains": trains})
        with self._news:
            if "answers" in message:
                self._answers[message["met"]] = message["answers"]
            elif "stop_at" in message:
                self._stop_at = message["stop_at"]
            self._news.notify_all()

    def _finish(self, line: str, code: int) -> NoReturn:
        """All end; a failing process has said its own line already."""
        self._ended.set()
        if not self._failing:
            resume = how_to_resume() if code > 128 else ""
            print(f"scalingnote: {line}{resume}", file=sys.stderr, flush=True)
        self._exit(code)

    def _exit(self, code: int) -> NoReturn:
        """Without Python's and JAX's own ends, which wait for the other processes. Process 0 goes
        last, as JAX ends a process whose process 0 is gone with 58 lines.
        """
        if self._exchange is not None:
            self._exchange.gone.wait(END_SECS)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


_current: Together | None = None
# Whether this process may be part of a job that it has not joined yet
expected = False


def current() -> Together | None:
    """The job that this process has joined; None if it is alone."""
    return _current


def join(job: Job, lines: dict[int, Connection]) -> Together:
    """Starts it.

    Args:
        lines: in process 0 the connections to all others by their numbers, elsewhere {0: …}.
    """
    global _current
    if job.index == 0:
        mine, theirs = socket.socketpair()
        exchange = Exchange(job, lines | {0: Connection(theirs)})
        _current = Together(job, Connection(mine), exchange)
    else:
        _current = Together(job, lines[0], None)
    return _current
