"""Texts that wait are put together: as many as a token budget holds, by one thread, as soon as it
is free. So a single query waits for nothing, and under load batches fill by themselves.

Waiting is bounded: what would wait too long is refused at once, what nobody waits for any more is
left out. Not for what is done with a batch: that is `run`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from scalingnote_jax.serve.refused import Refused

Job = TypeVar("Job")
Answer = TypeVar("Answer")


@dataclass
class _Waiting(Generic[Job, Answer]):
    job: Job
    tokens: int
    answer: asyncio.Future[Answer]
    since: float = field(default_factory=time.perf_counter)


class Batcher(Generic[Job, Answer]):
    """A bounded queue in front of a function that takes many jobs at once. It belongs to one event
    loop; `run` is called in `executor`.

    Attributes:
        waiting_tokens: of the jobs in the queue.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Job]], Sequence[Answer | Exception]],
        executor: Executor,
        batch_tokens: int,
        queue_tokens: int,
        waited: Callable[[float], None] = lambda secs: None,
    ):
        """
        Args:
            run: gives an answer, or the exception of one job, for each.
            batch_tokens: of a batch, unless a single job has more.
            queue_tokens: that may wait.
            waited: is told how long each job has waited.
        """
        self._run, self._executor, self._waited = run, executor, waited
        self._batch_tokens, self._queue_tokens = batch_tokens, queue_tokens
        self._queue: deque[_Waiting[Job, Answer]] = deque()
        self._filled = asyncio.Event()
        self._token_secs = 0.0  # of late; 0: nothing was run yet
        self.waiting_tokens = 0

    def submit(self, jobs: Sequence[tuple[Job, int]]) -> list[asyncio.Future[Answer]]:
        """Puts (job, its tokens) into the queue, all or none.

        Raises:
            Refused: 429, there is no room; with Retry-After.
        """
        tokens = sum(n for _, n in jobs)
        if self.waiting_tokens and self.waiting_tokens + tokens > self._queue_tokens:
            secs = max(1, math.ceil(self.waiting_tokens * self._token_secs))
            line = (
                f"server: {self.waiting_tokens} tokens are waiting; expected room for {tokens} of "
                f"{self._queue_tokens}; try again in {secs} s"
            )
            raise Refused(429, line, headers={"Retry-After": str(secs)})
        loop = asyncio.get_running_loop()
        new = [_Waiting[Job, Answer](job, n, loop.create_future()) for job, n in jobs]
        self._queue.extend(new)
        self.waiting_tokens += tokens
        self._filled.set()
        return [waiting.answer for waiting in new]

    async def serve(self) -> None:
        """Runs batches until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._filled.wait()
            batch = self._take()
            if not batch:
                continue
            started = time.perf_counter()
            try:
                answers = await loop.run_in_executor(
                    self._executor, self._run, [waiting.job for waiting in batch]
                )
            except Exception as e:  # of our own making: each request answers with it
                answers = [e] * len(batch)
            self._learn(time.perf_counter() - started, sum(w.tokens for w in batch))
            for waiting, answer in zip(batch, answers, strict=True):
                _give(waiting.answer, answer)

    def _take(self) -> list[_Waiting[Job, Answer]]:
        """The next batch, in order of arrival, without jobs that nobody waits for."""
        batch: list[_Waiting[Job, Answer]] = []
        tokens, now = 0, time.perf_counter()
        while self._queue:
            first = self._queue[0]
            gone = first.answer.done()
            if not gone and batch and tokens + first.tokens > self._batch_tokens:
                break
            self._queue.popleft()
            self.waiting_tokens -= first.tokens
            if not gone:
                batch.append(first)
                tokens += first.tokens
                self._waited(now - first.since)
        if not self._queue:
            self._filled.clear()
        return batch

    def _learn(self, secs: float, tokens: int) -> None:
        now = secs / max(tokens, 1)
        self._token_secs = now if not self._token_secs else 0.9 * self._token_secs + 0.1 * now


def _give(answer: asyncio.Future[Answer], value: Answer | Exception) -> None:
    if answer.done():  # its client has gone, or its time was up
        return
    if isinstance(value, Exception):
        answer.set_exception(value)
    else:
        answer.set_result(value)
