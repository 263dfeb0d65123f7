"""The loop that both stages share: feed, step, log, save, resume.

The device never waits for the host: batches are made ahead by threads, a step is launched before
the one before it is read, and metrics are read one log step late. Batches are a function of (seed,
step), so a run that is stopped at step s and goes on gives the same losses as one that was not.
SIGTERM makes it save and end.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scalingnote_jax.data.batches import iterate
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.devices.preemption import Preempted, watch
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.layers.params import Flat
from scalingnote_jax.progress import Bar, progress, say
from scalingnote_jax.train.checkpoint import TrainingCheckpoints
from scalingnote_jax.train.prepare import Prepared, Schedule, Step
from scalingnote_jax.train.profiling import Trace, peak_flops
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
        Any  # data.pipeline.PairSampler, TextSampler or the like: .batch(step) → dict of arrays
    )
    schedule: Schedule
    meta: dict[str, Any]  # goes into every checkpoint
    # Further figures for the record of a log step, from the state after it; takes its time
    probe: Callable[[int, TrainState], dict[str, float]] | None = None
    # FLOPs of the model in a step on this process's batch and those of the others, of so many parts
    flops: Callable[[dict[str, np.ndarray], int], int] | None = None


def fit(stage: Stage) -> TrainState:
    """Trains to the end of the schedule, from the newest checkpoint in the folder if any."""
    checkpoints = TrainingCheckpoints(stage.folder / "checkpoints")
    prepared = stage.prepared
    try:
        start = _resume_step(stage, checkpoints)
        if start:
            say(f"{stage.name}: goes on after step {start}")
            state = checkpoints.restore(start, prepared.abstract, prepared.shardings)
        else:
            state = prepared.place(stage.initial())
        if start < stage.schedule.total_steps:
            state = _run(stage, state, start, checkpoints)
    finally:
        checkpoints.close()
    return state


def _resume_step(stage: Stage, checkpoints: TrainingCheckpoints) -> int:
    step = checkpoints.latest_step() or 0
    if step and checkpoints.meta(step).get("inputs") != stage.meta["inputs"]:
        raise bad_input(
            str(stage.folder),
            f"its checkpoint of step {step} is of another config or other data",
            "the same inputs",
            "use another --workdir, or --overwrite to train anew",
        )
    return step


def _run(
    stage: Stage, state: TrainState, start: int, checkpoints: TrainingCheckpoints
) -> TrainState:
    total, every = stage.schedule.total_steps, stage.schedule.checkpoint_every
    log = MetricsLog(stage, start)
    in_flight: deque[Any] = deque()
    trace = Trace(stage.name, start, total)
    with progress(stage.name, total=total, unit="steps") as bar, watch() as preemption:
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
            stop = step < total and preemption.stop_after(step)
            if step % every == 0 or step == total or stop:
                checkpoints.save(state, step, stage.meta)
            if stop:
                break
        log.close(step, bar)
    trace.close()
    if stop:
        checkpoints.close()
        say(f"{stage.name}: told to stop, saved step {step}; the same command goes on from there")
        raise Preempted
    return state


class MetricsLog:
    """Turns the steps' (sum, count) pairs into one record per log step, in `metrics.jsonl` and
    beside the bar.
    """

    def __init__(self, stage: Stage, start: int):
        self.stage = stage
        self.path = stage.folder / "metrics.jsonl"
        self.parts = mesh_lib.batch_part(stage.prepared.mesh)[1]
        self.window: list[Any] = []
        self.pending: tuple[int, list[Any], dict[str, float]] | None = None
        self.real_tokens = self.all_tokens = self.examples = self.flops = 0
        self.peak_flops = peak_flops(stage.prepared.mesh)
        self.idle_secs = 0.0
        self.started = self.window_started = time.monotonic()
        if mesh_lib.first_process():
            # A resumed run repeats what came after its checkpoint.
            kept = [r for r in read_metrics(self.path) if r["step"] <= start]
            self.path.write_text("".join(json.dumps(r) + "\n" for r in kept))

    @contextmanager
    def host_work(self, in_flight: deque[Any]) -> Iterator[None]:
        """Counts the time of the block as lost if the device had nothing left to do at its end."""
        before = time.monotonic()
        yield
        if not in_flight or all(x.is_ready() for x in jax.tree.leaves(in_flight[-1])):
            self.idle_secs += time.monotonic() - before

    def add(
        self, step: int, batch: dict[str, np.ndarray], metrics: Any, bar: Bar, state: TrainState
    ) -> None:
        """Notes one launched step, and the state after it; at a log step, writes the record of the
        log step before.
        """
        bar.advance(1)
        self.window.append(metrics)
        for name, x in batch.items():
            if name.endswith(("mask", "segments")):
                self.real_tokens += int(np.count_nonzero(x))
                self.all_tokens += x.size
        self.examples += len(next(iter(batch.values()))) * self.parts
        self.flops += self.stage.flops(batch, self.parts) if self.stage.flops else 0
        if step % self.stage.schedule.log_every == 0 or step == self.stage.schedule.total_steps:
            self._next(step, bar, state)

    def close(self, step: int, bar: Bar) -> None:
        """Writes what is still pending, after the last step."""
        if self.window:
            self._next(step, bar)
        self._write(bar)
        self.pending = None

    def _next(self, step: int, bar: Bar, state: TrainState | None = None) -> None:
        self._write(bar)
        rates = self._rates()
        if self.stage.probe is not None and state is not None:
            rates |= self.stage.probe(step, state)
            self.window_started = time.monotonic()  # what it took is not the steps'
        self.pending = (step, self.window, rates)
        self.window = []

    def _rates(self) -> dict[str, float]:
        now = time.monotonic()
        secs = max(now - self.window_started, 1e-9)
        rates = {
            "examples_per_sec": round(self.examples / secs, 2),
            "tokens_per_sec": round(self.real_tokens * self.parts / secs, 1),
            "padding": round(1 - self.real_tokens / max(self.all_tokens, 1), 4),
            "host_share": round(self.idle_secs / secs, 4),
            "secs": round(now - self.started, 2),
        }
        if self.flops:
            rates["tflops_per_sec"] = round(self.flops / secs / 1e12, 4)
            if self.peak_flops:
                rates["mfu"] = round(self.flops / secs / self.peak_flops, 4)
        self.real_tokens = self.all_tokens = self.examples = self.flops = 0
        self.idle_secs, self.window_started = 0.0, now
        return rates

    def _write(self, bar: Bar) -> None:
        if self.pending is None:
            return
        step, window, rates = self.pending
        host = jax.device_get(window)
        record: dict[str, Any] = {"step": step}
        for name in host[0]:
            record[name] = float(sum(m[name][0] for m in host) / sum(m[name][1] for m in host))
        losses = [float(m["loss"][0] / m["loss"][1]) for m in host]
        if not all(map(math.isfinite, losses)):
            first = (
                step
                - len(losses)
                + 1
                + next(i for i, x in enumerate(losses) if not math.isfinite(x))
            )
            raise bad_input(
                f"{self.stage.name}, step {first}",
                "the loss is not a finite number",
                "a finite loss",
                f"lower --{self.stage.name}.optim.learning_rate or check the weights",
            )
        record["losses"] = losses  # step by step: what "the same curve" is compared on
        record["learning_rate"] = float(self.stage.schedule.learning_rate(step - 1))
        record |= rates
        bar.note(f"(step {step}: loss {record['loss']:.4f})")
        if mesh_lib.first_process():
            with self.path.open("a") as f:
                f.write(json.dumps(record) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`, oldest first; a half-written last line is left out."""
    records = []
    if path.is_file():
        for line in path.read_text().splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                break
    return records
