"""What every request passes: the key, an id, one shape of errors, the log and the counters. An ASGI
middleware; what is asked for is `app.py`'s.
"""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scalingnote_jax.serve.logs import LOGGER, log
from scalingnote_jax.serve.meters import Meters
from scalingnote_jax.serve.refused import Refused

OPEN = ("/health", "/ready")  # what a load balancer asks, without a key
_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
ADMIN = "/admin/"
CLIENT_GONE = 499  # as nginx logs it; nobody gets this


@dataclass(frozen=True)
class Keys:
    """Of which a request must have one.

    Attributes:
        answers: for all but what is open; none: whoever asks is answered.
        admin: for what changes the server; none: nobody can.
    """

    answers: Sequence[str] = ()
    admin: Sequence[str] = ()


class Gate:
    """Wraps the app."""

    def __init__(self, app: ASGIApp, meters: Meters, keys: Keys, paths: Sequence[str]):
        """`paths`: that the metrics tell apart."""
        self._app, self._stages, self._paths = app, meters, frozenset(paths)
        self._keys = [key.encode() for key in keys.answers]
        self._admin = [key.encode() for key in keys.admin]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = time.perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        status = CLIENT_GONE

        async def with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()), (b"x-request-id", request_id.encode())
                ]  # fmt: skip
            await send(message)

        fields: dict[str, Any] = {}  # what the endpoint adds to the log line
        scope["fields"] = fields
        try:
            if scope["path"] not in OPEN:
                own = self._admin if scope["path"].startswith(ADMIN) else self._keys
                _check_key(headers.get(b"authorization", b""), own)
            await self._app(scope, receive, with_id)
        except ClientDisconnect:
            pass
        except Exception as e:
            if status != CLIENT_GONE:  # the answer has begun
                raise
            await _answer_of(e, scope, request_id)(scope, receive, with_id)
        self._note(scope, status, time.perf_counter() - started, request_id, fields)

    def _note(
        self, scope: Scope, status: int, secs: float, request_id: str, fields: dict[str, Any]
    ) -> None:
        path = scope["path"] if scope["path"] in self._paths else "other"
        self._stages.requests.labels(path, str(status)).inc()
        self._stages.secs.labels(path).observe(secs)
        level = logging.DEBUG if path in (*OPEN, "/metrics") else logging.INFO
        own = {"method": scope["method"], "path": scope["path"][:200], "status": status}
        log("request", level, id=request_id, **own, ms=round(secs * 1e3, 2), **fields)


def _answer_of(error: Exception, scope: Scope, request_id: str) -> JSONResponse:
    """The answer that an exception is. A fault of ours is logged, not shown."""
    if isinstance(error, HTTPException):
        line = f"{scope['method']} {scope['path'][:200]}: {error.detail}; see GET /info"
        error = Refused(error.status_code, line, headers=error.headers)
    elif not isinstance(error, Refused):
        LOGGER.error("fault", exc_info=error, extra={"fields": {"id": request_id}})
        error = Refused(500, f"server: a fault of its own; its log has request {request_id}")
    openai = scope["path"].startswith("/v1/")
    status = 400 if openai and error.status == 422 else error.status  # as each of the two has it
    return JSONResponse(error.body(openai), status, headers=error.headers)


def _check_key(header: bytes, keys: Sequence[bytes]) -> None:
    """Compares in constant time."""
    kind, _, key = header.partition(b" ")
    given = key.strip() if kind.lower() == b"bearer" else b""
    if keys and not sum(hmac.compare_digest(given, own) for own in keys):
        line = "Authorization: {}; expected 'Bearer KEY' with a key of this server; send it"
        raise Refused(
            401,
            line.format("not there" if not header else "an unknown key"),
            headers={"WWW-Authenticate": "Bearer"},
        )
