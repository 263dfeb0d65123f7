"""How a command ends: one line and an exit code, in all processes of a job the same.

Here, and nowhere else, an exception becomes what a person sees: a mistake of theirs, what the
system refused (a full disk), a signal. Anything else is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable

from scalingnote_jax.devices import together
from scalingnote_jax.devices.preemption import Stopped, signals
from scalingnote_jax.errors import UserError, system_line

USER_ERROR = 2
# How long a lost process may explain what another one meets, such as a broken collective
PATIENCE_SECS = 5.0
USER_PATIENCE_SECS = 0.5


def run_to_end(work: Callable[[], None], command: str, debug: bool = False) -> int:
    """Runs a command. For the main thread.

    Args:
        command: what a person types to go on with it.
        debug: a user's mistake keeps its traceback.

    Returns:
        The exit code: 0; 2 for a mistake or for what the system refused; 128 + the signal's number.
    """
    try:
        with signals():
            work()
            if (job := together.current()) is not None:
                job.leave()
        return 0
    except Stopped as e:
        return _stopped(e, command)
    except KeyboardInterrupt:  # raised by a library of its own accord
        return _stopped(Stopped(signal.SIGINT), command)
    except Exception as e:
        line = str(e) if isinstance(e, UserError) else system_line(e)
        trace = traceback.format_exc() if debug or line is None else ""
        return _failed(line, f"{type(e).__name__}: {e}", trace)


def _stopped(e: Stopped, command: str) -> int:
    print(f"scalingnote: stopped by {e.signal}; resume with: {command}", file=sys.stderr)
    if (job := together.current()) is not None and e.agreed:
        job.leave()
    return e.code if isinstance(e.code, int) else 1


def _failed(line: str | None, fault: str, trace: str) -> int:
    code = USER_ERROR if line is not None else 1
    said = " ".join((line or fault).split())
    if (job := together.current()) is not None:
        patience = USER_PATIENCE_SECS if line is not None else PATIENCE_SECS
        job.fail(said, code, patience, trace)
    print(trace if trace else f"scalingnote: {said}", file=sys.stderr, flush=True)
    if together.expected:
        from scalingnote_jax.devices.mesh import tell_failure

        tell_failure(said)
    return code
