"""Which rows come when: every draw is a hash of the seed and of what is drawn for.

A draw depends on (seed, epoch, row) alone, never on draws before it: any step can be computed
first, on any host, with the same result on every version of NumPy. Not for tokens or batches: see
`pipeline.py`.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np

from scalingnote_jax.errors import bad_input

T = TypeVar("T")


class Draw(enum.IntEnum):
    """What a hash is for: two purposes never share one."""

    ORDER = 1
    WINDOW = 2
    POSITIVE = 3
    NEGATIVE = 4
    MINED = 5  # which of a query's window are kept as its hard negatives
    HARD = 6  # which of those stand beside it in an epoch
    MIXTURE = 7  # which texts of a source an epoch of distillation has
    NOISE = 8
    PROBE = 9  # which texts the student is watched on
    SAMPLE = 10  # which documents the queries of a step share
    MEMBER = 11  # which queries of a collection an epoch of a mixture has
    BATCH = 12  # in which order batches of single collections come
    NAME = 13  # which names the training queries are given


def keyed(*parts: int | np.ndarray) -> np.ndarray:
    """uint64 hashes of the parts, broadcast against each other.

    The mixer is SplitMix64's finaliser (Steele, Lea and Flood 2014), once for each part.
    """
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        for part in parts:
            state = _mix(state + np.uint64(0x9E3779B97F4A7C15) + np.asarray(part).astype(np.uint64))
    return state


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def draw(below: int | np.ndarray, *parts: int | np.ndarray) -> np.ndarray:
    """int64 draws from 0 to `below` - 1, keyed by the parts."""
    return (keyed(*parts) % np.asarray(below).astype(np.uint64)).astype(np.int64)


def epoch_order(
    sizes: np.ndarray, batch_size: int, window: int, seed: int, epoch: int
) -> np.ndarray:
    """The examples of an epoch, batch by batch.

    All are permuted; the rest that fills no batch is dropped. Within each `window` batches the
    examples are sorted by size, so that a batch needs little padding, and then the batches of the
    window are permuted, so that sizes vary along the epoch.

    Args:
        sizes: [n], what to sort by, such as the bucket of the longest text of an example.

    Returns:
        int64 [n // batch_size, batch_size], indices of examples, each at most once.
    """
    steps = len(sizes) // batch_size
    everything = np.argsort(keyed(seed, epoch, Draw.ORDER, np.arange(len(sizes))), kind="stable")
    kept = everything[: steps * batch_size]
    by_size = np.lexsort((sizes[kept], np.arange(len(kept)) // (batch_size * window)))
    batches = kept[by_size].reshape(steps, batch_size)
    shuffled = keyed(seed, epoch, Draw.WINDOW, np.arange(steps))
    return batches[np.lexsort((shuffled, np.arange(steps) // window))]


def check_sizes(
    section: str, examples: int, batch_size: int, window: int, process_count: int
) -> None:
    """Refuses what cannot give batches. `section` of the config is where the numbers come from.

    Raises:
        UserError: there is not one full batch, or it cannot be split over the processes.
    """
    if not 1 <= batch_size <= examples:
        raise bad_input(
            f"--{section}.batch_size",
            f"{batch_size} with {examples} examples to train on",
            f"from 1 to {examples}",
            "lower it, or use more data",
        )
    if batch_size % process_count:
        raise bad_input(
            f"--{section}.batch_size",
            f"{batch_size} over {process_count} processes",
            f"a multiple of {process_count}",
            f"set it to {max(1, batch_size // process_count) * process_count}",
        )
    if window < 1:
        raise bad_input(
            f"--{section}.bucket_window", f"{window}", "at least 1", "1 turns sorting off"
        )


class EpochPlans(Generic[T]):
    """The plans of the epochs around the current one; the next is made ahead, beside the training.

    Safe to use from several threads: near the end of an epoch they want two at a time.
    """

    def __init__(self, make: Callable[[int], T]):
        self._make = make
        self._plans: dict[int, Future[T]] = {}
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="epoch-plan")

    def __getitem__(self, epoch: int) -> T:
        with self._lock:
            for wanted in (epoch, epoch + 1):
                if wanted not in self._plans:
                    self._plans[wanted] = self._worker.submit(self._make, wanted)
            plan = self._plans[epoch]
            for old in [e for e in self._plans if abs(e - epoch) > 1]:
                del self._plans[old]
        return plan.result()
