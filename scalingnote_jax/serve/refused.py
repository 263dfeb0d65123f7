"""Why a request is not answered: an HTTP status and one line, in the shapes of both APIs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from scalingnote_jax.errors import bad_input, printable

# What a status means to a client of Text Embeddings Inference ("error_type") and of OpenAI ("type")
_TYPES = {
    401: ("unauthorized", "authentication_error"),
    408: ("timeout", "invalid_request_error"),
    413: ("validation", "invalid_request_error"),
    429: ("overloaded", "rate_limit_error"),
    500: ("backend", "server_error"),
    503: ("unhealthy", "server_error"),
    504: ("timeout", "server_error"),
}
_OTHER = ("validation", "invalid_request_error")


class Refused(Exception):
    """An answer that is an error. The message is one printable line."""

    def __init__(
        self,
        status: int,
        line: str,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        """`field`: of the body, that is wrong."""
        super().__init__(printable(" ".join(line.split())))
        self.status, self.field, self.headers = status, field, dict(headers or {})

    def body(self, openai: bool) -> dict[str, Any]:
        """The JSON body, as OpenAI's clients read it, or those of Text Embeddings Inference."""
        theirs, other = _TYPES.get(self.status, _OTHER)
        if not openai:
            return {"error": str(self), "error_type": theirs}
        return {"error": {"message": str(self), "type": other, "param": self.field, "code": None}}


def wrong(field: str, given: str, expected: str, fix: str, status: int = 422) -> Refused:
    """A field of the body that is not as it should be."""
    return Refused(status, str(bad_input(field, given, expected, fix)), field)


def said(value: Any) -> str:
    """A JSON value in a message: what it is, and itself where that is short."""
    if value is None or isinstance(value, bool | int | float):
        text = json.dumps(value)
        return text if len(text) <= 40 else f"{text[:40]}…"
    if isinstance(value, str):
        return f"{value[:40]!r}{'…' * (len(value) > 40)}"
    return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
