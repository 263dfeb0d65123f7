"""What the endpoints ask: what is live, the queues in front of its towers, and the threads behind
them. It belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
from starlette.requests import ClientDisconnect

from scalingnote_jax.errors import UserError, bad_input
from scalingnote_jax.serve.asked import Side
from scalingnote_jax.serve.batcher import Batcher
from scalingnote_jax.serve.live import Live, Opening, TextJob, run_jobs
from scalingnote_jax.serve.logs import log
from scalingnote_jax.serve.meters import AnswerPart, Meters
from scalingnote_jax.serve.refused import Refused
from scalingnote_jax.serve.server_limits import Limits
from scalingnote_jax.serve.upkeep.swap import loaded
from scalingnote_jax.serve.upkeep.watch import EVERY_SECS, QueryWatch

T = TypeVar("T")


class Service:
    """One server's.

    Attributes:
        live: None until it is loaded and compiled.
        stopping: whether the server has been told to stop.
    """

    def __init__(self, workdir: Path, opening: Opening, limits: Limits, meters: Meters):
        """`workdir`, `opening`: what is served first."""
        self._workdir, self._opening = workdir, opening
        self.limits, self.meters, self._watch = limits, meters, QueryWatch(meters)
        self.live: Live | None = None
        self._old: Live | None = None  # before the last swap
        self._swapping = asyncio.Lock()
        self.stopping = False
        self._batchers: dict[Side, Batcher[TextJob, Any]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._aside = ThreadPoolExecutor(1, "aside")
        self._beside = ThreadPoolExecutor(1, "beside")
        self._threads = [self._aside, self._beside]

    async def aside(self, work: Callable[[], T]) -> T:
        """Does what would hold up the event loop; one after another, so that who sends much waits
        for others who do.
        """
        return await asyncio.get_running_loop().run_in_executor(self._aside, work)

    async def beside(self, work: Callable[[], T]) -> T:
        """Does what takes long and nobody waits for."""
        return await asyncio.get_running_loop().run_in_executor(self._beside, work)

    async def start(self) -> None:
        """Loads, compiles, and is ready then.

        Raises:
            UserError: as `Live.open`.
        """
        live = await self.beside(self._load)
        for side in get_args(Side):
            if side in live.towers:
                self._batchers[side] = self._batcher(live.towers[side].batch_tokens, side)
        self._tasks.append(asyncio.create_task(self._watching()))
        self.live = live
        self.meters.documents.set(live.size)
        self.meters.ready.set(1)

    def _load(self) -> Live:
        live = Live.open(self._workdir, self._opening)
        for tower in live.towers.values():
            longest = tower.max_tokens * self.limits.inputs
            if self.limits.queue_tokens < longest:
                given = f"{self.limits.queue_tokens}, and a request may have {longest} tokens"
                fix = "raise it, or lower --inputs"
                raise bad_input("--queue-tokens", given, f"at least {longest}", fix)
        live.warm()
        return live

    def _batcher(self, batch_tokens: int, side: Side) -> Batcher[TextJob, Any]:
        """A thread for each tower: a slow document tower keeps no query waiting."""
        threads = ThreadPoolExecutor(1, f"tower-{side}")
        self._threads.append(threads)
        waited = self.meters.stage_secs.labels(AnswerPart.QUEUE).observe
        given = batch_tokens, self.limits.queue_tokens, waited
        batcher = Batcher[TextJob, Any](self._run, threads, *given)
        self._tasks.append(asyncio.create_task(batcher.serve()))
        self.meters.waiting.labels(side).set_function(lambda: batcher.waiting_tokens)
        return batcher

    def _run(self, jobs: Sequence[TextJob]) -> list[Any]:
        self.meters.batch.observe(len(jobs))
        return run_jobs(jobs, self.meters, self._saw)

    def _saw(self, live: Live, texts: list[str], vectors: np.ndarray, best: list[float]) -> None:
        if live is self.live:
            self._watch.saw(texts, vectors, best)

    async def _watching(self) -> None:
        while True:
            await asyncio.sleep(EVERY_SECS)
            live = self.current()
            try:
                await self.beside(lambda live=live: self._watch.measure(live))  # type: ignore[misc]
            except UserError as e:  # such as a server of vectors that has gone
                log("watch", logging.WARNING, reason=str(e))

    async def swap(self, workdir: Path, student: str | None) -> dict[str, Any]:
        """Puts another workdir, or another student, in the place of what is live.

        Raises:
            Refused: another swap goes on (409); as `swap.loaded`. What was live stays.
        """
        if self._swapping.locked():
            raise Refused(409, "swap: one goes on; expected one at a time; try again later")
        async with self._swapping:
            old = self.current()
            opening, texts = replace(self._opening, student=student), self._watch.texts()
            try:
                new, recall = await self.beside(lambda: loaded(workdir, opening, texts))
            except Exception:
                self.meters.swaps.labels("refused").inc()
                raise
            self._old = old
            self._go_live(new)
        return {"name": new.name, "documents": new.size, "canary_recall": recall}

    def roll_back(self) -> dict[str, Any]:
        """Puts back what was live before the last swap; once more, and the swap holds again.

        Raises:
            Refused: 409, there was no swap.
        """
        if self._old is None or self._swapping.locked():
            raise Refused(409, "rollback: no swap is done; expected one; nothing has changed")
        new, self._old = self._old, self.current()
        self._go_live(new)
        return {"name": new.name, "documents": new.size}

    def _go_live(self, live: Live) -> None:
        """From here on; requests that came before are answered by what was live then."""
        self.live = live
        self._watch.forget()
        self.meters.documents.set(live.size)
        self.meters.swaps.labels("done").inc()

    def current(self) -> Live:
        """What is live.

        Raises:
            Refused: 503 until it is loaded.
        """
        if self.live is None:
            raise _not_ready("is loading")
        return self.live

    def ready(self) -> Live:
        """What is live, for who may come later elsewhere.

        Raises:
            Refused: 503 until it is loaded, and once the server is told to stop.
        """
        if self.stopping:
            raise _not_ready("is stopping")
        return self.current()

    async def answers(
        self,
        make: Callable[[bool], list[TextJob]],
        gone: asyncio.Task[None],
        secs: float,
        fields: dict[str, Any],
        long: bool,
    ) -> list[Any]:
        """An answer for each job of a request.

        Args:
            make: tokenises the request's texts; told whether they are long.
            gone: is done when nobody waits any more.
            secs: until it is too late.
            fields: of the log line, which get tokens.
            long: whether tokenising the texts would hold others up.

        Raises:
            Refused: 429 where there is no room, 504 where it took too long; as `make`.
            ClientDisconnect: nobody waits any more.
        """
        started = time.perf_counter()
        with self.meters.time(AnswerPart.TOKENS):
            jobs = await self.aside(lambda: make(True)) if long else make(False)
        side = jobs[0].side
        self._count(jobs, side, fields)
        answer = asyncio.gather(*self._batchers[side].submit([(job, job.cost) for job in jobs]))
        left = max(0.0, secs - (time.perf_counter() - started))
        either: list[asyncio.Future[Any]] = [answer, gone]
        await asyncio.wait(either, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        answer.cancel()
        if gone.done():
            raise ClientDisconnect
        line = f"server: no answer within {secs:g} s; expected one; try again later or send less"
        raise Refused(504, line)

    def _count(self, jobs: list[TextJob], side: Side, fields: dict[str, Any]) -> None:
        rows = [job.tokens for job in jobs if job.tokens]
        tokens, cut = sum(len(row.ids) for row in rows), sum(row.cut for row in rows)
        self.meters.texts.labels(side).inc(len(jobs))
        self.meters.tokens.labels(side).inc(tokens)
        self.meters.cut.labels(side).inc(cut)
        fields |= {"side": side, "texts": len(jobs), "tokens": tokens, "truncated": cut}

    def stop(self) -> None:
        """Ends threads and queues, once no request is in flight."""
        for task in self._tasks:
            task.cancel()
        for threads in self._threads:
            threads.shutdown(wait=True, cancel_futures=True)


def _not_ready(state: str) -> Refused:
    line = f"server: {state}; expected one that is ready; see GET /ready"
    return Refused(503, line, headers={"Retry-After": "1"})
