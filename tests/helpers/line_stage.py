"""A training of a few numbers: least squares on points of a line, with what can go wrong in it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from scalingnote_jax.config import DistillConfig, MeshConfig, OptimConfig
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.train.loop import Stage, fit
from scalingnote_jax.train.optim import learning_rate
from scalingnote_jax.train.prepare import Prepared, Schedule
from scalingnote_jax.train.state import TrainState
from scalingnote_jax.train.step import update

STEPS = 12
AXES = {"a/w": ("embed", "mlp"), "a/b": ("norm",), "frozen": ("norm",)}


class KilledHereError(Exception):
    """Stands for a SIGKILL: nothing after it runs."""


class LineSampler:
    """Points of a line, drawn by step alone; with `term_at`, SIGTERM comes before that step."""

    def __init__(self, term_at: int = -1, signum: int = signal.SIGTERM, fail_at: int = -1):
        self.term_at, self.signum, self.fail_at = term_at, signum, fail_at

    def batch(self, step: int) -> dict[str, np.ndarray]:
        if step == self.term_at:
            os.kill(os.getpid(), self.signum)
        if step == self.fail_at:
            raise KilledHereError
        x = np.random.default_rng(step).normal(size=(8, 4)).astype(np.float32)
        return {"x": x, "y": x @ np.ones((4, 2), np.float32), "mask": np.ones((8, 4), bool)}

    def ids(self, step: int) -> list[str]:
        return [f"point-{step}-{i}" for i in range(8)]


def line_step(state: TrainState, batch, *, tx, rows, poison_at: int = -1):
    """Least squares; with `poison_at`, the loss is NaN in that step, counted from 0."""

    def loss_fn(trained, batch):
        params = trained | state.frozen
        error = batch["x"] @ params["a/w"] + params["a/b"] - batch["y"]
        loss = jnp.square(error).mean() + jnp.where(state.step == poison_at, jnp.nan, 0.0)
        return loss, {"loss": (loss * 8, jnp.float32(8))}

    return update(state, loss_fn, batch, tx, rows, parts=1)


def make_stage(
    folder: Path,
    mesh=None,
    *,
    total: int = STEPS,
    inputs: str = "x",
    term_at: int = -1,
    signum: int = signal.SIGTERM,
    fail_at: int = -1,
    skip_spikes: float = 0.0,
    **static,
) -> Stage:
    """Records every third step, saves every fourth."""
    mesh = mesh or make_mesh(MeshConfig())
    cfg = DistillConfig(optim=OptimConfig(learning_rate=0.05, skip_spikes=skip_spikes))
    shapes = {
        k: jax.ShapeDtypeStruct(s, np.float32)
        for k, s in (("a/w", (4, 2)), ("a/b", (2,)), ("frozen", (3,)))
    }
    schedule = Schedule(STEPS, 3, 4, learning_rate(cfg.optim, STEPS))
    prepared = Prepared("test", shapes, AXES, ("^frozen$",), cfg, schedule, mesh)
    return Stage(
        name="distill",
        folder=folder,
        prepared=prepared,
        step=prepared.jit(line_step, **static),
        initial=lambda: {k: np.full(s.shape, 0.1, np.float32) for k, s in shapes.items()},
        sampler=LineSampler(term_at, signum, fail_at),
        schedule=Schedule(total, 3, 4, schedule.learning_rate),
        meta={"inputs": inputs},
    )


def fit_in(folder: Path, **kwargs) -> TrainState:
    """Trains in a folder, which is made if it is not there."""
    folder.mkdir(exist_ok=True)
    return fit(make_stage(folder, **kwargs))
