"""A training whose loss or gradient is no finite number any more: it ends with one line, and the
batch is kept so that it can be looked at.

Looked at before anything is saved, so the newest checkpoint is always of a good step. The loop
calls it; what a parameter holds is checked where it is saved (`train/checkpoint.py`).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import UserError, bad_input

FOLDER = "diverged"  # in a stage's folder; removed when the stage ends well
MOST_SKIPPED = 32  # batches in a row: the training, not a batch, is what is wrong
_NAMED = 4  # ids in the message; the others are in the file

Figures = dict[str, tuple[np.ndarray, np.ndarray]]  # name → (sum, count) of one step, on the host


class Batches(Protocol):
    """A stage's sampler: a batch again, and what its rows are called."""

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's rows of a step, counted from 0."""
        ...

    def ids(self, step: int) -> list[str]:
        """The ids of all rows of that step."""
        ...


def is_skipped(figures: Figures) -> bool:
    """Whether the step's batch was not learned; see `optim.skip_spikes`."""
    return "skipped" in figures and bool(figures["skipped"][0])


def loss_of(figures: Figures) -> float:
    """The mean loss of one step."""
    return float(figures["loss"][0] / figures["loss"][1])


class DivergenceCheck:
    """Looks at the steps of one run, in their order.

    Args:
        name: of the stage.
        folder: the stage's.
        sampler: of its batches.
    """

    def __init__(self, name: str, folder: Path, sampler: Batches):
        self._name, self._folder, self._sampler = name, folder, sampler
        self._skipped_in_row = 0

    def look(self, first_step: int, steps: Sequence[Figures]) -> None:
        """
        Args:
            first_step: the number of the first of `steps`, counted from 1.

        Raises:
            UserError: the first step whose loss or gradient norm is not finite, unless its batch
                was skipped; or too many skipped ones in a row.
        """
        for step, figures in enumerate(steps, first_step):
            norm = float(figures["grad_norm"][0] / figures["grad_norm"][1])
            loss = loss_of(figures)
            if is_skipped(figures):
                self._skipped_in_row += 1
                if self._skipped_in_row < MOST_SKIPPED:
                    continue
                raise self._diverged(step, f"{MOST_SKIPPED} batches in a row were skipped", loss)
            self._skipped_in_row = 0
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise self._diverged(
                    step, f"the loss is {loss:g}, the gradient's norm {norm:g}", loss
                )

    def _diverged(self, step: int, given: str, loss: float) -> UserError:
        ids = self._sampler.ids(step - 1)
        named = ", ".join(ids[:_NAMED])
        more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
        return bad_input(
            f"{self._name}, step {step}",
            f"{given}; batch of {named}{more}, {self._keep(step, loss, ids)}",
            "finite numbers, so nothing after the last checkpoint is saved",
            f"lower --{self._name}.optim.learning_rate, or check the weights and these texts",
        )

    def _keep(self, step: int, loss: float, ids: list[str]) -> str:
        """Writes the batch, each process its rows, and says where it is."""
        path = self._folder / FOLDER / f"step-{step}.process-{jax.process_index()}.npz"
        batch: dict[str, Any] = dict(self._sampler.batch(step - 1))
        try:
            path.parent.mkdir(exist_ok=True)
            partial = path.with_name(path.name + ".partial")
            with partial.open("wb") as f:
                np.savez(f, **batch, ids=np.array(ids), loss=np.float64(loss))
            partial.replace(path)
            said = f"kept in {path}"
        except OSError as e:
            said = f"which cannot be kept ({e.strerror})"
        mesh_lib.barrier("the batch is kept")
        return said


def forget(folder: Path) -> None:
    """Removes what an earlier, failed run of a stage has kept."""
    if mesh_lib.first_process():
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
