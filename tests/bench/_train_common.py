"""What both sides of the training bench share: the numbers, the meter, the pairs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np

BATCH, SCALE, RATE = 64, 20.0, 2e-5
MATMUL = 2048  # side of the square matrices whose product is the machine's rate
SHOWN = 8  # texts whose vectors are compared


class Meter:
    """What a turn measures, the same on both sides."""

    def __init__(self, turns: common.Turns, num_params: int, multiply: Callable[[], Any]):
        """`num_params` without embedding tables; `multiply` as for `flops_per_sec`."""
        self.turns, self.num_params, self.multiply = turns, num_params, multiply

    def start(self) -> None:
        """Begins a turn."""
        self.steps = self.real = self.all = 0
        self.began, self.cpu_began = time.perf_counter(), time.process_time()

    def step(self) -> None:
        """Counts a step."""
        self.steps += 1

    def tokens(self, mask: Any) -> None:
        """Counts the tokens of a mask [..., L]."""
        self.real += int(mask.sum())
        self.all += int(np.prod(mask.shape))

    def stop(self) -> None:
        """Ends the turn, reports it, waits for the next and begins that."""
        secs = time.perf_counter() - self.began
        cpu_secs = time.process_time() - self.cpu_began
        peak = flops_per_sec(self.multiply)
        # A multiplication and an addition per weight, forward once and backward twice.
        flops_per_token = 6 * self.num_params
        self.turns.hand_over(
            pairs_per_sec=self.steps * BATCH / secs,
            pairs_per_cpu_sec=self.steps * BATCH / cpu_secs,  # less disturbed by others at work
            real_tokens_per_sec=self.real / secs,
            padding=1 - self.real / self.all,
            matmul_gflops=peak / 1e9,
            share_of_matmul=flops_per_token * self.all / secs / peak,
            share_of_matmul_by_real_tokens=flops_per_token * self.real / secs / peak,
        )
        self.start()


def flops_per_sec(multiply: Callable[[], Any]) -> float:
    """Of a product of two square float32 matrices: the best of five."""
    multiply()
    secs = []
    for _ in range(5):
        before = time.perf_counter()
        multiply()
        secs.append(time.perf_counter() - before)
    return 2 * MATMUL**3 / min(secs)


def pairs_of(model: common.Result) -> dict[str, list[str]]:
    """The training pairs, in the order of our batches."""
    return json.loads((Path(model["folder"]) / "pairs.json").read_text())
