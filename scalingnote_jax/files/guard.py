"""What somebody else's file makes a parser stumble over, as one line that names the file.

For code that interprets a format of others, whose every field may be missing or of another type:
whatever it meets is the file's fault. Not for our own invariants: an assertion stays one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scalingnote_jax.errors import UserError, bad_input

_PANIC = "PanicException"  # of libraries in Rust; no `Exception`


def needed_path(where: str, path: str, what: str) -> Path:
    """The path of a file that an option names.

    Args:
        where: the option.
        what: it should be.

    Raises:
        UserError: there is no such file.
    """
    if not Path(path).is_file():
        raise bad_input(where, f"no file {path}", what, "check the path")
    return Path(path)


@contextmanager
def reading(path: Path, expected: str, fix: str = "fetch it again") -> Iterator[None]:
    """Turns what the block raises into a `UserError` about `path`.

    Args:
        expected, fix: of the error.
    """
    try:
        yield
    except (UserError, AssertionError):
        raise
    except BaseException as e:
        if not isinstance(e, Exception) and type(e).__name__ != _PANIC:
            raise  # an interrupt
        reason = f"{type(e).__name__}: {str(e).strip().partition(chr(10))[0][:200]}"
        raise bad_input(str(path), f"cannot be read ({reason})", expected, fix) from e
