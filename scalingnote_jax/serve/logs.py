"""The server's log: one JSON object a line, on stderr. Texts of requests are left out unless they
are asked for, since queries are personal data.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

LOGGER = logging.getLogger("scalingnote.serve")


class JsonLines(logging.Formatter):
    """A record as a JSON object; its `fields` beside time, level and event."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


def set_up(level: str) -> None:
    """Sends our own records and uvicorn's there."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for logger in (LOGGER, logging.getLogger("uvicorn")):
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level.upper())


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """One line."""
    LOGGER.log(level, event, extra={"fields": fields})
