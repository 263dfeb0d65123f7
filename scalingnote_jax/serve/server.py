"""`scalingnote serve WORKDIR`: the command's options, and uvicorn around the app."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from scalingnote_jax.config.values import read_workdir_config
from scalingnote_jax.errors import UserError, bad_input
from scalingnote_jax.progress import say
from scalingnote_jax.serve.app import make_app
from scalingnote_jax.serve.connections import limited
from scalingnote_jax.serve.gate import Keys
from scalingnote_jax.serve.live import Opening
from scalingnote_jax.serve.logs import log, set_up
from scalingnote_jax.serve.meters import Meters
from scalingnote_jax.serve.server_limits import Limits
from scalingnote_jax.serve.service import Service

KEY_VARIABLE, ADMIN_VARIABLE = "SCALINGNOTE_API_KEY", "SCALINGNOTE_ADMIN_KEY"
BACKLOG = 2048  # connections that wait to be taken
KEEP_ALIVE_SECS = 75  # longer than load balancers keep theirs, so that they close, not we
_MEANINGS = {
    "body_bytes": "of a request's body",
    "inputs": "texts or vectors in one request",
    "text_chars": "characters of one text",
    "k": "documents for one query",
    "batch_tokens": "tokens that a tower gets at once; 0: encode.batch_size full texts",
    "queue_tokens": "tokens that may wait; more are refused with 429",
    "timeout_secs": "for an answer",
    "read_secs": "for a client to send its headers, its body, and to take an answer",
    "stop_delay_secs": "between SIGTERM, when /ready says no, and the end of listening",
    "drain_secs": "for requests in flight after that",
}


def main(parser: ArgumentParser, words: list[str]) -> None:
    """Serves a workdir until a signal ends it.

    Raises:
        UserError: an option, the workdir or the port is not as it should be.
    """
    parser.add_argument("workdir", help="a workdir that `scalingnote run` has finished")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: every interface")
    parser.add_argument("--port", type=int, default=8080, help="0: a free one, which is printed")
    parser.add_argument("--student", help="a workdir of the same teacher, whose student answers")
    parser.add_argument(
        "--documents", action="store_true", help="load the LLM document tower too, for /embed"
    )
    parser.add_argument(
        "--hybrid", action="store_true", help="load BM25 too, for /search with a mode"
    )
    parser.add_argument("--int8", action="store_true", help="the query tower's weights in int8")
    parser.add_argument(
        "--api-key-file", help=f"keys, one a line; or one in the variable {KEY_VARIABLE}"
    )
    parser.add_argument(
        "--admin-key-file", help=f"keys for /admin/swap and /admin/rollback; or {ADMIN_VARIABLE}"
    )
    levels = ("debug", "info", "warning", "error")
    parser.add_argument("--log-level", default="info", choices=levels, help="of the JSON log")
    parser.add_argument("--log-texts", action="store_true", help="log the texts of requests too")
    for field in fields(Limits):
        option, kind = f"--{field.name.replace('_', '-')}", type(field.default)
        text = f"{_MEANINGS[field.name]} (default: {field.default})"
        parser.add_argument(option, type=kind, default=field.default, help=text)
    args = parser.parse_args(words)
    limits = Limits(**{field.name: getattr(args, field.name) for field in fields(Limits)})
    limits.check()
    read_workdir_config(Path(args.workdir))  # before a port is taken
    own = _keys("--api-key-file", args.api_key_file, KEY_VARIABLE)
    admin = _keys("--admin-key-file", args.admin_key_file, ADMIN_VARIABLE)
    _serve(args, limits, Keys(own, admin))


def _keys(option: str, file: str | None, variable: str) -> list[str]:
    """The keys in a file, else the one in the environment, if there is one."""
    given = [os.environ.get(variable, "")]
    if file is not None:
        try:
            given = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as e:
            fix = "name such a file"
            raise bad_input(option, str(e), "a file with a key a line", fix) from e
    keys = [key.strip() for key in given if key.strip()]
    if file is not None and not keys:
        raise bad_input(option, f"{file} is empty", "a key a line", "write one")
    return keys


def _serve(args: Namespace, limits: Limits, keys: Keys) -> None:
    listening = _listen(args.host, args.port)
    set_up(args.log_level)
    given = args.student, args.documents, args.hybrid, args.int8, limits.batch_tokens
    service = Service(Path(args.workdir), Opening(*given), limits, Meters())
    failed: list[BaseException] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async def load() -> None:
            try:
                await service.start()
                log("ready", documents=service.live and service.live.size)
            except Exception as e:
                failed.append(e)
                server.should_exit = True

        task = asyncio.create_task(load())
        yield
        task.cancel()
        service.stop()

    server = _Server(make_app(service, keys, args.log_texts, lifespan), service)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    say(f"serve: http://{shown}:{port} (loading; GET /ready says when; Ctrl+C or SIGTERM ends it)")
    # uvicorn raises them again when it has ended, which would end us with an error
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listening])
    for error in failed:
        if isinstance(error, UserError):
            raise error
        raise RuntimeError("the workdir could not be served") from error


class _Server(uvicorn.Server):
    """uvicorn's own; after a signal it goes on answering for `stop_delay_secs`."""

    def __init__(self, app: Any, service: Service):
        limits = service.limits
        protocol = limited(limits.read_secs)
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECS,
                timeout_graceful_shutdown=max(1, round(limits.drain_secs)),
            )
        )
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        delay = self._service.limits.stop_delay_secs
        if self._service.stopping or not delay:  # a second signal does not wait
            self._service.stopping = True
            return super().handle_exit(sig, frame)
        self._service.stopping = True
        log("stopping", delay_secs=delay)
        asyncio.get_running_loop().call_later(delay, super().handle_exit, sig, frame)


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port < 2**16:
        raise bad_input("--port", str(port), f"0 to {2**16 - 1}", "name another")
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)  # from the moment on at which it is said to be there
    except (OSError, OverflowError, UnicodeError) as e:
        given = f"{host}:{port} ({e})"
        raise bad_input("--host, --port", given, "a free port here", "name others") from e
    return listening
