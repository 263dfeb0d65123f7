"""What a server allows: lengths, waiting, time. Every limit is there so that no client can cost the
others their answers.
"""

from __future__ import annotations

from dataclasses import dataclass

from scalingnote_jax.errors import bad_input

MAY_BE_0 = ("batch_tokens", "stop_delay_secs")


@dataclass(frozen=True)
class Limits:
    """Of one server.

    Attributes:
        body_bytes: of a request's body.
        inputs: texts or vectors in one request.
        text_chars: of one text; what the tower reads of it is cut to its own tokens after that.
        k: documents for one query.
        batch_tokens: tokens, padding included, that a tower gets at once; 0: as many as
            `encode.batch_size` texts of full length.
        queue_tokens: tokens that may wait; more are refused with 429.
        timeout_secs: from a request's last byte to its answer.
        read_secs: for a client to send its headers, and then its body; and to take each part of an
            answer.
        stop_delay_secs: between a signal to stop, from which on `/ready` says no, and the end of
            listening: for a load balancer to see it.
        drain_secs: for requests in flight, after that.
    """

    body_bytes: int = 2_000_000
    inputs: int = 64
    text_chars: int = 100_000
    k: int = 1000
    batch_tokens: int = 0
    queue_tokens: int = 100_000
    timeout_secs: float = 10.0
    read_secs: float = 10.0
    stop_delay_secs: float = 0.0
    drain_secs: float = 30.0

    def check(self) -> None:
        """Refuses limits that no server can have.

        Raises:
            UserError: names the option.
        """
        for name, value in vars(self).items():
            least = 0 if name in MAY_BE_0 else 1 if isinstance(value, int) else 0.001
            if not least <= value < float("inf"):
                option = f"--{name.replace('_', '-')}"
                raise bad_input(option, str(value), f"at least {least:g}", "raise it")
