"""How a command ends: one line and an exit code, in all processes of a job the same.

Here, and nowhere else, an exception becomes what a person sees: a mistake of theirs, what the
system refused (a full disk), a signal. Anything else is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable

from scalingnote_jax.devices import together
from scalingnote_jax.devices.preemption import Stopped, signals
from scalingnote_jax.errors import UserError, system_line

USER_ERROR, FAULT = 2, 1
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
    together.command, together.expected = command, False
    try:
        with signals():
            work()
            if (job := together.current()) is not None:
                job.leave()
        return 0
    except Stopped as e:
        print(f"scalingnote: stopped by {e.signal}{together.how_to_resume()}", file=sys.stderr)
        if (job := together.current()) is not None:
            job.leave()
        return int(e.code or 0)
    except KeyboardInterrupt:  # raised by a library of its own accord
        return _failed(f"stopped by SIGINT{together.how_to_resume()}", 128 + signal.SIGINT)
    except BrokenPipeError:  # whoever read what we print has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except Exception as e:
        line = str(e) if isinstance(e, UserError) else system_line(e)
        trace = traceback.format_exc() if debug or line is None else ""
        fault = f"{type(e).__name__}: {e}"
        return _failed(line or fault, FAULT if line is None else USER_ERROR, trace)


def _failed(line: str, code: int, trace: str = "") -> int:
    said = " ".join(line.split())
    if (job := together.current()) is not None:
        patience = PATIENCE_SECS if code == FAULT else USER_PATIENCE_SECS
        job.fail(said, code, patience, trace)
    print(trace if trace else f"scalingnote: {said}", file=sys.stderr, flush=True)
    if together.expected:
        from scalingnote_jax.devices.mesh import tell_failure

        tell_failure(said)
    return code
