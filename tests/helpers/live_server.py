"""A real `scalingnote serve` in a process of its own, and requests to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

STARTED = re.compile(r"serve: http://127\.0\.0\.1:(\d+) ")


class Reply(NamedTuple):
    """Status, headers and JSON (or text) of an answer."""

    status: int
    headers: dict[str, str]
    body: Any


class LiveServer:
    """Started on a free port; `log` has the lines that it wrote so far."""

    def __init__(self, workdir: Path, *options: str, wait: bool = True, **env: str):
        words = [sys.executable, "-m", "scalingnote_jax", "serve", str(workdir), "--port=0"]
        # One device, as on a server; in the tests there are eight
        flags = "--xla_backend_optimization_level=0"
        self.process = subprocess.Popen(
            [*words, *options],
            env={**os.environ, "XLA_FLAGS": flags, "COLUMNS": "200", **env},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            found = self._first(STARTED)
            self.port = int(found[1]) if found else 0
            if wait:
                self.wait_ready()
        except BaseException:  # nobody has it, so nobody would end it
            self.process.kill()
            raise

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line.rstrip("\n"))

    def _first(self, wanted: re.Pattern[str]) -> re.Match[str] | None:
        for _ in range(2400):  # two minutes, on a busy machine
            for line in self.log:
                if found := wanted.search(line):
                    return found
            if self.process.poll() is not None:
                self._reader.join()
                return None
            time.sleep(0.05)
        raise AssertionError("\n".join(self.log))

    def wait_ready(self) -> None:
        for _ in range(1200):
            assert self.process.poll() is None, "\n".join(self.log)
            if self.get("/ready").status == 200:
                return
            time.sleep(0.05)
        raise AssertionError("\n".join(self.log))

    def get(self, path: str, **headers: str) -> Reply:
        return self.request("GET", path, None, **headers)

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        """`body`: bytes as they are, or values that are sent as JSON."""
        return self.request("POST", path, body, **headers)

    def request(self, method: str, path: str, body: Any, **headers: str) -> Reply:
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, sent, named)
            answer = connection.getresponse()
            given = answer.read().decode()
            kind = answer.headers.get_content_type()
            value = json.loads(given) if kind == "application/json" else given
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, value)
        finally:
            connection.close()

    def records(self, event: str) -> list[dict[str, Any]]:
        """The log's records of an event."""
        lines = [json.loads(line) for line in self.log if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it; gives the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(60)
        self._reader.join()
        return code
