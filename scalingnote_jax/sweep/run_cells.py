"""Runs the cells of a sweep one after another, each in a process of its own: what one leaves in
memory, or dies of, is nothing to the next, and compiled programs come from JAX's cache on disk.

A cell that was done from the same inputs is not started again, so a sweep that was stopped goes on.
One that fails is noted with its last words, and the sweep goes on too.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from scalingnote_jax import run
from scalingnote_jax.config.values import CONFIG_FILE, read_workdir_config
from scalingnote_jax.errors import UserError
from scalingnote_jax.progress import say
from scalingnote_jax.startup import completed
from scalingnote_jax.sweep.cells import SweepCell, make_cells
from scalingnote_jax.sweep.spec import Sweep
from scalingnote_jax.workflow.workdir import Workdir

Start = Callable[[list[str], Path], int]
# Linux tells it when its parent ends: it saves, and the next start of the sweep finds it stopped
_CELL = """
import ctypes, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
from scalingnote_jax.cli import main
sys.exit(main())
"""


@dataclass
class CellRun:
    """A cell in its folder, and what became of it.

    Attributes:
        folder: its workdir.
        words: of the command that makes it, behind `scalingnote`.
        status: "done", "failed" or "waiting".
        error: the line that says why it failed.
    """

    cell: SweepCell
    folder: Path
    words: list[str]
    status: str = "waiting"
    error: str = ""


def runs_of(sweep: Sweep, root: Path, overwrite: bool) -> list[CellRun]:
    """All cells, none of them started, in the sweep's folder `root`, in which its config lies.

    Raises:
        UserError: as `make_cells`.
    """
    runs = []
    for cell in make_cells(sweep):
        folder = root / "cells" / cell.name
        places = [f"--workdir={folder}", f"--reuse={root / 'cells'}"]
        words = ["run", str(root / CONFIG_FILE), *cell.words, *places]
        runs.append(CellRun(cell, folder, words + ["--overwrite"] * overwrite))
    return runs


def run_cells(sweep: Sweep, runs: list[CellRun], start: Start) -> Iterator[CellRun]:
    """Brings every cell to its end; yields each when it has come to it.

    Args:
        start: runs `scalingnote` with some words, writes what it says to a file, and returns its
            exit code.
    """
    for number, each in enumerate(runs, 1):
        head = f"cell {number} of {len(runs)}, {each.cell.name}"
        if is_finished(sweep, each):
            each.status = "done"
            say(f"{head}: done already")
            yield each
            continue
        say(f"{head}: starts")
        log = each.folder.with_name(each.folder.name + ".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        code = start(each.words, log)
        each.status = "failed" if code else "done"
        each.error = failure(code, log) if code else ""
        secs = time.monotonic() - started
        say(f"{head}: {each.error or f'done in {secs:.0f} s'}")
        yield each


def is_finished(sweep: Sweep, cell_run: CellRun) -> bool:
    """Whether all steps in its folder were done from the cell's config and the data as they are
    now.
    """
    folder = cell_run.folder
    try:
        config = completed(sweep.config_with(cell_run.cell.words), tell=False)
        if read_workdir_config(folder) != config:
            return False
        return all(task.is_done(config) for task in run.tasks(config, Workdir(folder)))
    except UserError:  # there is no workdir yet, or a step before is not done
        return False


def start_process(words: list[str], log: Path) -> int:
    """`scalingnote` in a process that is told to stop, and saves, when this one ends."""
    command = [sys.executable, "-c", _CELL, *words]
    with log.open("w") as file:
        return subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode


def failure(code: int, log: Path) -> str:
    """Why a process failed: the line that it ended with, or the signal that ended it."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + " (out of memory?)" * (name == "SIGKILL")
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    said = [line for line in lines if line]
    ours = [line for line in said if line.startswith("scalingnote: ")]
    return (ours or said or [f"exit code {code}"])[-1]
