"""What a person sees while a step runs: a bar on a terminal, one line every few seconds elsewhere.

Only the first process of a multi-process job speaks (`quiet` is set by `mesh.start`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from scalingnote_jax.errors import printable, redacted

LINE_EVERY_SECS = 10.0

console = Console(stderr=True, highlight=False)
_quiet = False


def quiet() -> None:
    """Mutes this process: another one does the talking."""
    global _quiet
    _quiet = True


def say(message: str) -> None:
    """One line to stderr (stdout carries results only)."""
    if not _quiet:
        console.print(redacted(printable(message)), markup=False, soft_wrap=True)


class Bar:
    """Progress of one step."""

    def __init__(self, name: str, total: int, unit: str, rich_bar: Progress | None):
        self.name, self.total, self.unit = name, total, unit
        self.done = 0
        self._rich = rich_bar
        self._task = rich_bar.add_task(name, total=total or None, note="") if rich_bar else None
        self._note = ""
        self._started = self._last_line = time.monotonic()

    def advance(self, amount: int = 1) -> None:
        """Moves the bar by `amount` units."""
        self.done += amount
        if self._rich is not None and self._task is not None:
            self._rich.update(self._task, advance=amount)
        elif not self._note and time.monotonic() - self._last_line >= LINE_EVERY_SECS:
            self._line()

    def note(self, text: str) -> None:
        """A short text beside the bar, such as the loss; without a terminal, a line of its own."""
        self._note = text
        if self._rich is not None and self._task is not None:
            self._rich.update(self._task, note=text)
        else:
            self._line()

    def _line(self) -> None:
        self._last_line = time.monotonic()
        of_total = f"/{self.total}" if self.total else ""
        say(f"{self.name}: {self.done}{of_total} {self.unit} {self._note}".rstrip())

    def finish(self) -> None:
        """One closing line, so that a log file tells what took how long."""
        secs = time.monotonic() - self._started
        say(f"{self.name}: {self.done} {self.unit} in {secs:.1f} s {self._note}".rstrip())


@contextmanager
def progress(name: str, total: int, unit: str = "steps") -> Iterator[Bar]:
    """A progress bar for `total` units of work (0: not known), as a context."""
    name = printable(name)
    if _quiet or not sys.stderr.isatty():
        bar = Bar(name, total, unit, None)
        yield bar
    else:
        columns = (
            TextColumn("{task.description:<24}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console, transient=True) as rich_bar:
            bar = Bar(name, total, unit, rich_bar)
            yield bar
    bar.finish()
