"""The records of a training: `metrics.jsonl`, one line for each log step.

Metrics are read one log step late, so that the device does not wait. Before a checkpoint all of
them are read: what is on the disk is then at least as far as the checkpoint, and what belongs to
the record after it goes into the checkpoint. So a run that was killed has the same records.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.files.typed_json import COUNT, Misfit, parse
from scalingnote_jax.progress import Bar, say
from scalingnote_jax.train.log.collapse import CollapseAlarm
from scalingnote_jax.train.log.divergence import DivergenceCheck, Figures, is_skipped, loss_of
from scalingnote_jax.train.prepare import Schedule
from scalingnote_jax.train.state import TrainState

FILE = "metrics.jsonl"


@dataclass(frozen=True)
class Logged:
    """What of a stage the log needs; see `train.loop.Stage`."""

    name: str
    folder: Path
    sampler: Any
    schedule: Schedule
    probe: Callable[[int, TrainState], dict[str, float]] | None
    parts: int  # of a batch, one of which this process feeds
    flops: Callable[[dict[str, np.ndarray], int], int] | None  # as `train.loop.Stage` has it
    peak_flops: float  # of all devices together; 0 where it is not known


class MetricsLog:
    """Turns the steps' (sum, count) pairs into one record per log step, in `metrics.jsonl` and
    beside the bar.

    Args:
        start: the step that the run goes on from.
        window: what `settle` gave before that step was saved.
    """

    def __init__(self, stage: Logged, start: int, window: Sequence[dict[str, Any]] = ()):
        self.stage, self.path = stage, stage.folder / FILE
        self.window: list[Any] = [
            {name: (np.float32(total), np.float32(count)) for name, (total, count) in step.items()}
            for step in window
        ]
        self.pending: tuple[int, list[Any], dict[str, float]] | None = None
        self.check = DivergenceCheck(stage.name, stage.folder, stage.sampler)
        self.alarm = CollapseAlarm(stage.name, stage.schedule.total_steps)
        self.real_tokens = self.all_tokens = self.examples = self.flops = 0
        self.idle_secs = 0.0
        self.started = self.window_started = time.monotonic()
        if mesh_lib.first_process():
            # A resumed run repeats what came after its checkpoint.
            kept = [r for r in read_metrics(self.path) if r["step"] <= start]
            partial = self.path.with_name(FILE + ".partial")
            partial.write_text("".join(json.dumps(r) + "\n" for r in kept))
            partial.replace(self.path)

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

        Raises:
            UserError: a step that is to be recorded has diverged.
        """
        bar.advance(1)
        self.window.append(metrics)
        for name, x in batch.items():
            if name.endswith(("mask", "segments")):
                self.real_tokens += int(np.count_nonzero(x))
                self.all_tokens += x.size
        self.examples += len(next(iter(batch.values()))) * self.stage.parts
        self.flops += self.stage.flops(batch, self.stage.parts) if self.stage.flops else 0
        if step % self.stage.schedule.log_every == 0 or step == self.stage.schedule.total_steps:
            self._write(bar)
            rates = self._rates()
            if self.stage.probe is not None:
                rates |= self.stage.probe(step, state)
                self.window_started = time.monotonic()  # what it took is not the steps'
            self.pending, self.window = (step, self.window, rates), []

    def settle(self, step: int, bar: Bar) -> list[dict[str, list[float]]]:
        """Waits for `step`, writes every record up to it to the disk, and looks at what belongs to
        the next one, which it returns: it is saved with the step.

        Raises:
            UserError: the training has diverged.
        """
        self._write(bar)
        self.window = jax.device_get(self.window)
        self.check.look(step - len(self.window) + 1, self.window)
        if mesh_lib.first_process():
            with self.path.open("rb") as f:
                os.fsync(f.fileno())
        pairs = [{name: (float(a), float(b)) for name, (a, b) in w.items()} for w in self.window]
        return [{name: list(pair) for name, pair in step.items()} for step in pairs]

    def _rates(self) -> dict[str, float]:
        now = time.monotonic()
        secs = max(now - self.window_started, 1e-9)
        rates = {
            "examples_per_sec": round(self.examples / secs, 2),
            "tokens_per_sec": round(self.real_tokens * self.stage.parts / secs, 1),
            "padding": round(1 - self.real_tokens / max(self.all_tokens, 1), 4),
            "host_share": round(self.idle_secs / secs, 4),
            "secs": round(now - self.started, 2),
        }
        if self.flops:
            rates["tflops_per_sec"] = round(self.flops / secs / 1e12, 4)
            if self.stage.peak_flops:
                rates["mfu"] = round(self.flops / secs / self.stage.peak_flops, 4)
        self.real_tokens = self.all_tokens = self.examples = self.flops = 0
        self.idle_secs, self.window_started = 0.0, now
        return rates

    def _write(self, bar: Bar) -> None:
        if self.pending is None:
            return
        step, window, rates = self.pending
        self.pending = None
        host: list[Figures] = jax.device_get(window)
        self.check.look(step - len(host) + 1, host)
        record = {"step": step} | averages(host)
        record["learning_rate"] = float(self.stage.schedule.learning_rate(step - 1))
        record |= rates
        for line in self.alarm.look(record):
            say(line)
        loss = record["loss"]
        bar.note(f"(step {step}: loss {'not finite' if loss is None else f'{loss:.4f}'})")
        if mesh_lib.first_process():
            with self.path.open("a") as f:
                f.write(json.dumps(record) + "\n")


def averages(window: Sequence[Figures]) -> dict[str, Any]:
    """The figures of some steps as one record: means of what was learned, "skipped" as the number
    of batches that were not, and "losses" step by step (None for what is not finite).
    """
    learned = [m for m in window if not is_skipped(m)] or list(window)
    record: dict[str, Any] = {}
    for name in window[0]:
        mean = float(sum(m[name][0] for m in learned) / sum(m[name][1] for m in learned))
        record[name] = mean if math.isfinite(mean) else None
    if "skipped" in record:
        record["skipped"] = sum(map(is_skipped, window))
    losses = [loss_of(m) for m in window]
    record["losses"] = [x if math.isfinite(x) else None for x in losses]
    return record


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`, oldest first; a half-written last line is left out."""
    records = []
    if path.is_file():
        for line in path.read_bytes().split(b"\n"):
            try:
                records.append(parse(line, {"step": COUNT}))
            except Misfit:
                break
    return records
