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
from typing import Any

from scalingnote_jax.config import Config
from scalingnote_jax.errors import UserError
from scalingnote_jax.pipeline import STEPS, Run
from scalingnote_jax.progress import say
from scalingnote_jax.sweep.cells import Cell, config_of
from scalingnote_jax.workflow.workdir import CONFIG_FILE, Workdir, is_done, read_workdir_config

Start = Callable[[list[str], Path], int]
# Linux tells it when its parent ends: it saves, and the next start of the sweep finds it stopped
_CELL = """
import ctypes, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
from scalingnote_jax.cli import main
sys.exit(main())
"""
_NO_MESH: Any = None  # what a step was made from is known without devices


@dataclass
class Outcome:
    """What became of a cell.

    Attributes:
        folder: its workdir.
        words: of the command that makes it, behind `scalingnote`.
        status: "done", "failed" or "waiting".
        error: the line that says why it failed.
    """

    cell: Cell
    folder: Path
    words: list[str]
    status: str = "waiting"
    error: str = ""


def plan(cells: list[Cell], root: Path, overwrite: bool) -> list[Outcome]:
    """What is to be run in the sweep's folder `root`, in which its config lies."""
    outcomes = []
    for cell in cells:
        folder = root / "cells" / cell.name
        places = [f"--workdir={folder}", f"--reuse={root / 'cells'}"]
        words = ["run", str(root / CONFIG_FILE), *cell.words, *places]
        outcomes.append(Outcome(cell, folder, words + ["--overwrite"] * overwrite))
    return outcomes


def run_cells(config: Config, outcomes: list[Outcome], start: Start) -> Iterator[Outcome]:
    """Brings every cell to its end; yields each when it has come to it.

    Args:
        config: the sweep's.
        start: runs `scalingnote` with some words, writes what it says to a file, and returns its
            exit code.
    """
    for number, outcome in enumerate(outcomes, 1):
        head = f"cell {number} of {len(outcomes)}, {outcome.cell.name}"
        if is_finished(config_of(config, outcome.cell), outcome.folder):
            outcome.status = "done"
            say(f"{head}: done already")
            yield outcome
            continue
        say(f"{head}: starts")
        log = outcome.folder.with_name(outcome.folder.name + ".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        code = start(outcome.words, log)
        outcome.status = "failed" if code else "done"
        outcome.error = last_words(code, log) if code else ""
        secs = time.monotonic() - started
        say(f"{head}: {outcome.error or f'done in {secs:.0f} s'}")
        yield outcome


def is_finished(config: Config, folder: Path) -> bool:
    """Whether all steps in a workdir were done from this config and the data as they are now. What
    was mined is an input of training.
    """
    try:
        if read_workdir_config(folder) != config:
            return False
        run = Run(config, Workdir(folder), _NO_MESH)
        wanted = [STEPS[verb] for verb in filter(run.has, STEPS) if verb != "mine"]
        return all(is_done(step.folder(run.workdir), step.inputs(run)) for step in wanted)
    except UserError:  # there is no workdir yet, or a step before is not done
        return False


def start_process(words: list[str], log: Path) -> int:
    """`scalingnote` in a process that is told to stop, and saves, when this one ends."""
    command = [sys.executable, "-c", _CELL, *words]
    with log.open("w") as file:
        return subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode


def last_words(code: int, log: Path) -> str:
    """Why a process failed: the line that it ended with, or the signal that ended it."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + " (out of memory?)" * (name == "SIGKILL")
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    said = [line for line in lines if line]
    ours = [line for line in said if line.startswith("scalingnote: ")]
    return (ours or said or [f"exit code {code}"])[-1]
