"""A connection that waits for no client for ever: headers come within a time and a size, and an
answer is taken within a time. uvicorn limits neither, so clients that are slow or silent would hold
sockets and memory. The time for a body is `app.py`'s.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_BYTES = 64 * 1024


class LimitedConnection(HttpToolsProtocol):
    """uvicorn's own, with these limits. Subclasses set `read_secs` (`limited`)."""

    read_secs = 10.0
    _timer: asyncio.TimerHandle | None = None
    _header_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._between_requests():
            if self._timer is None:  # the first bytes of the next request
                self._start_timer()
            self._header_bytes += len(data)
        super().data_received(data)
        if not self._between_requests():
            self._stop_timer()
            self._header_bytes = 0
        elif self._header_bytes > HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response(f"headers: over {HEADER_BYTES} bytes; send fewer")

    def on_response_complete(self) -> None:
        self._header_bytes = 0
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The client does not take its answer."""
        super().pause_writing()
        self._start_timer()

    def resume_writing(self) -> None:
        self._stop_timer()
        super().resume_writing()

    def _between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _start_timer(self) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(self.read_secs, self._give_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()


def limited(secs: float) -> type[LimitedConnection]:
    """The protocol with `read_secs`, for uvicorn, which makes one for each connection."""
    return type("LimitedConnection", (LimitedConnection,), {"read_secs": secs})
