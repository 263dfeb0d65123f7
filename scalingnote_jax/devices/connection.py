"""A connection between two processes of a job: it carries lines of JSON. Standard library only."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

MAX_LINE_BYTES = 1 << 20


class Connection:
    """One end of a connection."""

    def __init__(self, connection: socket.socket):
        self.connection = connection
        self._lock, self._buffer = threading.Lock(), b""

    def send(self, message: dict[str, Any]) -> None:
        """Sends one line; whole, also when several threads send.

        Raises:
            OSError: the other end is gone.
        """
        with self._lock:
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def fill(self) -> bool:
        """Waits for more bytes; False at the end of the connection.

        Raises:
            OSError: likewise, or the time that the socket may wait is over.
        """
        read = self.connection.recv(1 << 16)
        self._buffer += read
        return bool(read)

    def take(self) -> list[Any]:
        """The messages that are here whole.

        Raises:
            ValueError: a line is no JSON.
        """
        *whole, self._buffer = self._buffer.split(b"\n")
        return [json.loads(text) for text in whole]

    def read(self) -> Any:
        """The next message.

        Raises:
            OSError: there is none.
            ValueError: a line is too long or no JSON.
        """
        while b"\n" not in self._buffer:
            if len(self._buffer) > MAX_LINE_BYTES:
                raise ValueError("a line without an end")
            if not self.fill():
                raise ConnectionError("it hung up")
        text, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(text)

    def keep_open(self) -> None:
        """No time-out any more. The kernel finds out, within 30 to 40 s, that the machine at the
        other end is gone.
        """
        self.connection.settimeout(None)
        if self.connection.family == socket.AF_UNIX:
            return
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        options = {"KEEPIDLE": 10, "KEEPINTVL": 5, "KEEPCNT": 4, "USER_TIMEOUT": 40_000}
        for name, value in {"NODELAY": 1, **options}.items():
            if (option := getattr(socket, f"TCP_{name}", None)) is not None:  # Linux has them all
                self.connection.setsockopt(socket.IPPROTO_TCP, option, value)

    def close(self) -> None:
        """Hangs up."""
        self.connection.close()
