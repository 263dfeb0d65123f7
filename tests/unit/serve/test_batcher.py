"""The queue in front of a tower, with a real loop and a real thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("starlette")

from scalingnote_jax.serve.batcher import Batcher
from scalingnote_jax.serve.refused import Refused


class Slow:
    """Doubles numbers, a batch at a time, as soon as it may."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may = threading.Event()

    def __call__(self, jobs: Sequence[int]) -> list[Any]:
        self.batches.append(list(jobs))
        self.may.wait(10)
        return [ValueError("odd") if job == 13 else 2 * job for job in jobs]


def serving(slow: Slow, test: Any, batch: int = 4, queue: int = 10) -> None:
    async def run() -> None:
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher[int, int](slow, thread, batch, queue)
            task = asyncio.create_task(batcher.serve())
            try:
                await asyncio.wait_for(test(batcher), 20)
            finally:
                slow.may.set()
                task.cancel()

    asyncio.run(run())


async def begun(slow: Slow, batcher: Batcher[int, int], job: int) -> asyncio.Future[int]:
    """A first job that is being run, so that all others wait."""
    (first,) = batcher.submit([(job, 1)])
    while not slow.batches:
        await asyncio.sleep(0.001)
    return first


def test_what_waits_is_run_together_up_to_the_budget_and_in_order() -> None:
    slow = Slow()

    async def test(batcher: Batcher[int, int]) -> None:
        first = await begun(slow, batcher, 1)
        waiting = batcher.submit([(2, 2), (3, 2), (4, 1), (5, 4)])
        assert batcher.waiting_tokens == 9
        slow.may.set()
        assert await asyncio.gather(first, *waiting) == [2, 4, 6, 8, 10]
        assert slow.batches == [[1], [2, 3], [4], [5]]  # 2 + 2 tokens; 1; 4 are a batch of its own
        assert batcher.waiting_tokens == 0

    serving(slow, test)


def test_a_full_queue_refuses_a_request_whole_and_says_when_to_come_again() -> None:
    slow = Slow()

    async def test(batcher: Batcher[int, int]) -> None:
        await begun(slow, batcher, 1)
        batcher.submit([(2, 6)])
        with pytest.raises(Refused, match="6 tokens are waiting; expected room for 5 of 10") as e:
            batcher.submit([(3, 4), (4, 1)])
        assert e.value.status == 429
        assert int(e.value.headers["Retry-After"]) >= 1
        assert batcher.waiting_tokens == 6
        batcher.submit([(5, 4)])

    serving(slow, test)


def test_a_job_that_nobody_waits_for_is_not_run() -> None:
    slow = Slow()

    async def test(batcher: Batcher[int, int]) -> None:
        first = await begun(slow, batcher, 1)
        gone, kept = batcher.submit([(2, 1), (3, 1)])
        gone.cancel()
        slow.may.set()
        assert await asyncio.gather(first, kept) == [2, 6]
        assert slow.batches == [[1], [3]]

    serving(slow, test)


def test_one_bad_job_fails_alone_and_a_failed_batch_does_not_end_the_queue() -> None:
    slow = Slow()
    slow.may.set()

    async def test(batcher: Batcher[int, int]) -> None:
        bad, good = batcher.submit([(13, 1), (2, 1)])
        assert await good == 4
        with pytest.raises(ValueError, match="odd"):
            await bad
        (broken,) = batcher.submit([(None, 1)])  # type: ignore[list-item]
        with pytest.raises(TypeError):
            await broken
        (after,) = batcher.submit([(3, 1)])
        assert await after == 6

    serving(slow, test)
