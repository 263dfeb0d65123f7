"""The loop that both stages share: feed, step, log, save, resume.

The device never waits for the host: batches are made ahead by threads, a step is launched before
the one before it is read, and metrics are read one log step late. Batches are a function of (seed,
step), so a run that is stopped at step s and goes on gives the same losses as one that was not.
SIGTERM and SIGINT make it save and end. Every step is looked at before it is saved: a training that
has diverged leaves its last good checkpoint and no marker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scalingnote_jax.data.batches import iterate
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.devices.preemption import watch
from scalingnote_jax.models.layers.params import Flat
from scalingnote_jax.progress import progress, say
from scalingnote_jax.train.checkpoint import TrainingCheckpoints
from scalingnote_jax.train.log.divergence import forget
from scalingnote_jax.train.log.metrics_log import Logged, MetricsLog
from scalingnote_jax.train.log.profiling import Trace, peak_flops
from scalingnote_jax.train.prepare import Prepared, Schedule, Step
from scalingnote_jax.train.state import TrainState

IN_FLIGHT = (
    2  # steps launched but not finished: enough to keep the device busy, few enough to bound memory
)


@dataclass(frozen=True)
class Stage:
    """What one training run is made of."""

    name: str  # "train", "distill" or "refine": the verb, and the config section named in errors
    folder: Path
    prepared: Prepared
    step: Step  # jitted; donates its state
    initial: Callable[[], Flat]  # parameters at step 0, as `sharding.place` takes them
    sampler: (
        Any  # PairSampler, DistillSampler or the like: .batch(step) → dict of arrays, .ids(step)
    )
    schedule: Schedule
    meta: dict[str, Any]  # goes into every checkpoint
    # Further figures for the record of a log step, from the state after it; takes its time
    probe: Callable[[int, TrainState], dict[str, float]] | None = None
    # FLOPs of the model in a step on this process's batch and those of the others, of so many parts
    flops: Callable[[dict[str, np.ndarray], int], int] | None = None


def fit(stage: Stage) -> TrainState:
    """Trains to the end of the schedule, from the newest checkpoint in the folder if any.

    Raises:
        UserError: the training has diverged.
        Stopped: SIGTERM or SIGINT came, and the step is saved.
    """
    checkpoints = TrainingCheckpoints(stage.folder / "checkpoints")
    prepared = stage.prepared
    window: Sequence[dict[str, Any]] = ()
    try:
        given = prepared.abstract, prepared.shardings, stage.meta["inputs"]
        if found := checkpoints.resume(*given):
            start, state = found
            window = checkpoints.meta(start).get("window", ())
            checkpoints.prune()
            say(f"{stage.name}: goes on after step {start}")
        else:
            start, state = 0, prepared.place(stage.initial())
        if start < stage.schedule.total_steps:
            parts = mesh_lib.batch_part(prepared.mesh)[1]
            about = stage.name, stage.folder, stage.sampler, stage.schedule, stage.probe
            logged = Logged(*about, parts, stage.flops, peak_flops(prepared.mesh))
            state = _run(stage, state, start, checkpoints, MetricsLog(logged, start, window))
    finally:
        checkpoints.close()
    forget(stage.folder)
    return state


def _run(
    stage: Stage, state: TrainState, start: int, checkpoints: TrainingCheckpoints, log: MetricsLog
) -> TrainState:
    total, every = stage.schedule.total_steps, stage.schedule.checkpoint_every
    in_flight: deque[Any] = deque()
    trace = Trace(stage.name, start, total)
    with progress(stage.name, total=total, unit="steps") as bar, watch() as stopping:
        bar.advance(start)
        batches = iterate(stage.sampler, start, total)
        for step in range(start + 1, total + 1):
            with log.host_work(in_flight):
                batch = next(batches)
                put = mesh_lib.put_batch(batch, stage.prepared.mesh)
            with trace.step(step):
                state, metrics = stage.step(state, put)
            trace.after(step, metrics)
            in_flight.append(metrics)
            if len(in_flight) > IN_FLIGHT:
                jax.block_until_ready(in_flight.popleft())
            log.add(step, batch, metrics, bar, state)
            stop = stopping.stop_after(f"{stage.name}, step {step}") and step < total
            if step % every == 0 or step == total or stop:
                window = log.settle(step, bar)
                checkpoints.save(state, step, stage.meta | {"window": window})
            if stop:
                checkpoints.close()
                say(f"{stage.name}: told to stop, saved step {step}")
                break
    trace.close()
    return state
