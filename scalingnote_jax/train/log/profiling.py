"""`--profile STEPS`: some steps of a training as a trace that XProf and Perfetto show; and what the
chips of a training can do. Not for a program that was not run: `plan/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from scalingnote_jax.devices.chips import BY_DEVICE_KIND
from scalingnote_jax.progress import say

# Steps before a trace: they compile, and fill the queue between host and device
WARM_UP = 10


@dataclass
class Profile:
    """What the command asked for.

    Attributes:
        steps: of each training, after its first ones; 0 for none.
        folder: a trace is written into a folder in it with the stage's name, by every process.
    """

    steps: int = 0
    folder: Path = Path()


# Asked once for the process, as the place of a log file is: no number of a run depends on it
PROFILE = Profile()


class Trace:
    """Of one training."""

    def __init__(self, name: str, start: int, total: int):
        self.name, self.folder = name, PROFILE.folder / name
        count = min(PROFILE.steps, total - start)
        self.first = min(start + WARM_UP, total - count) + 1 if count else 0
        self.last = self.first + count - 1
        self.running = False

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around the launch of a step; begins the trace before the first one that is wanted."""
        if number == self.first:
            jax.profiler.start_trace(self.folder)
            self.running = True
        with jax.profiler.StepTraceAnnotation(self.name, step_num=number):
            yield

    def after(self, number: int, result: Any) -> None:
        """Ends the trace after the last step that is wanted, whose results are waited for."""
        if self.running and number >= self.last:
            jax.block_until_ready(result)
            self.close()
            say(f"{self.name}: steps {self.first} to {number} are traced in {self.folder}")

    def close(self) -> None:
        """Ends a trace that a stop has cut short."""
        if self.running:
            self.running = False
            jax.profiler.stop_trace()


def peak_flops(mesh: Mesh) -> float:
    """FLOP/s of all devices at bfloat16; 0 where they are no TPUs that `chips.py` knows."""
    devices: list[Any] = list(mesh.devices.flat)
    chip = BY_DEVICE_KIND.get(devices[0].device_kind)
    if chip is None:
        return 0.0
    chips = {(getattr(d, "slice_index", None), tuple(d.coords)) for d in devices}
    return chip.flops * len(chips)
