"""The endpoints. What each takes and gives is in docs/serve.md."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from scalingnote_jax.serve import shapes
from scalingnote_jax.serve.asked import (
    EmbedAsked,
    embed_asked,
    openai_asked,
    read_json,
    search_asked,
)
from scalingnote_jax.serve.gate import ADMIN, Gate, Keys
from scalingnote_jax.serve.live import TextJob
from scalingnote_jax.serve.refused import Refused
from scalingnote_jax.serve.server_limits import Limits
from scalingnote_jax.serve.service import Service
from scalingnote_jax.serve.upkeep.swap import swap_asked

# Of a request, read and tokenised at once; more would hold the others up, and goes to a thread
INLINE_CHARS, INLINE_BYTES = 2000, 20_000
READ_ON = 10  # times the longest body that is taken
Asked = TypeVar("Asked")
Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(
    service: Service,
    keys: Keys,
    log_texts: bool,
    lifespan: Callable[[Any], contextlib.AbstractAsyncContextManager[None]],
) -> Starlette:
    """The server's application.

    Args:
        keys: that open it; without those of `admin` nothing can be swapped.
        log_texts: whether the log has the texts of requests.
        lifespan: starts and stops the service.
    """
    ends = _Endpoints(service, log_texts)
    routes = [
        Route("/health", ends.health),
        Route("/ready", ends.ready),
        Route("/metrics", ends.metrics),
        Route("/info", ends.info),
        Route("/v1/models", ends.models),
        Route("/", ends.embed, methods=["POST"]),
        Route("/embed", ends.embed, methods=["POST"]),
        Route("/v1/embeddings", ends.openai, methods=["POST"]),
        Route("/search", ends.search, methods=["POST"]),
    ]
    if keys.admin:
        routes.append(Route(f"{ADMIN}swap", ends.swap, methods=["POST"]))
        routes.append(Route(f"{ADMIN}rollback", ends.roll_back, methods=["POST"]))
    gate = Middleware(Gate, service.meters, keys, [route.path for route in routes])
    # Gate answers for them; Starlette's own would, before they come there
    handlers = {HTTPException: _passed_on}
    return Starlette(
        routes=routes, middleware=[gate], exception_handlers=handlers, lifespan=lifespan
    )


async def _passed_on(request: Request, error: Exception) -> Response:
    raise error


class _Endpoints:
    """One method for each."""

    def __init__(self, service: Service, log_texts: bool):
        self._service, self._log_texts = service, log_texts

    async def health(self, request: Request) -> Response:
        """Alive: the event loop answers."""
        return JSONResponse({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        """Warm: everything is loaded and compiled."""
        self._service.ready()
        return JSONResponse({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        page, kind = self._service.meters.page()
        return Response(page, media_type=kind)

    async def info(self, request: Request) -> Response:
        return JSONResponse(shapes.info(self._service.current(), self._service.limits))

    async def models(self, request: Request) -> Response:
        return JSONResponse(shapes.models(self._service.current()))

    async def embed(self, request: Request) -> Response:
        asked = await self._asked(request, embed_asked)
        vectors = await self._embedded(request, asked)
        return JSONResponse(shapes.embeddings(vectors))

    async def openai(self, request: Request) -> Response:
        asked = await self._asked(request, openai_asked)
        vectors = await self._embedded(request, asked)
        tokens = request.scope["fields"].get("tokens", 0)
        given = asked.model or "", tokens, asked.base64
        return JSONResponse(shapes.openai_embeddings(vectors, *given))

    async def search(self, request: Request) -> Response:
        asked = await self._asked(request, search_asked)
        live = self._service.current()
        request.scope["fields"]["k"] = asked.k
        make = partial(live.search_jobs, asked)
        found = await self._answers(request, make, asked.texts or [])
        return JSONResponse(shapes.search_results(found, asked.with_texts))

    async def swap(self, request: Request) -> Response:
        """Another workdir or student goes live, once it is loaded and checked."""
        asked = await self._asked(request, lambda values, _: swap_asked(values))
        return JSONResponse(await self._service.swap(*asked))

    async def roll_back(self, request: Request) -> Response:
        """What was live before goes live again."""
        return JSONResponse(self._service.roll_back())

    async def _embedded(self, request: Request, asked: EmbedAsked) -> list[Any]:
        make = partial(self._service.current().embed_jobs, asked)
        return await self._answers(request, make, asked.texts)

    async def _answers(
        self, request: Request, make: Callable[[bool], list[TextJob]], texts: list[str]
    ) -> list[Any]:
        fields = request.scope["fields"]
        if self._log_texts:
            fields["asked"] = texts
        secs = self._secs(request)
        gone = asyncio.create_task(_gone(request))
        try:
            long = sum(map(len, texts)) > INLINE_CHARS
            return await self._service.answers(make, gone, secs, fields, long)
        finally:
            gone.cancel()

    def _secs(self, request: Request) -> float:
        """The server's deadline, or an earlier one of the client's."""
        most, given = self._service.limits.timeout_secs, request.headers.get("x-timeout-ms")
        if given is None:
            return most
        if not given.isascii() or not given.isdigit() or not 0 < len(given) < 10 or not int(given):
            line = f"X-Timeout-Ms: {given[:40]!r}; expected milliseconds above 0; change it"
            raise Refused(400, line)
        return min(most, int(given) / 1e3)

    async def _asked(
        self, request: Request, read: Callable[[dict[str, Any], Limits], Asked]
    ) -> Asked:
        """What the body says, once the server is ready; it comes within limits of size and time."""
        self._service.current()
        limits = self._service.limits
        try:
            async with asyncio.timeout(limits.read_secs):
                body = await _body(request, limits.body_bytes)
        except TimeoutError:
            line = (
                f"body: not whole after {limits.read_secs:g} s; expected it sooner; send it again"
            )
            raise Refused(408, line, headers={"Connection": "close"}) from None
        if len(body) <= INLINE_BYTES:
            return read(read_json(body), limits)
        return await self._service.aside(lambda: read(read_json(body), limits))


async def _gone(request: Request) -> None:
    """Ends when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request, most: int) -> bytes:
    """What is too long is read on for a while, unkept: a client that is still sending would not see
    the answer.
    """
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size <= most:
            parts.append(part)
        elif size > READ_ON * most:
            break
    if size > most:
        line = f"body: over {most} bytes; expected fewer; send several requests"
        raise Refused(413, line, headers={"Connection": "close"})
    return b"".join(parts)
