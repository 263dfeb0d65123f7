"""The one exception that speaks to a person, what the system says in their words, and what may be
shown to them: which characters, and no secrets.

Whatever a user can get wrong (a missing file, a broken line, a config that cannot work) raises
`UserError` with one line that says where, what was given, what was expected and what to do next.
`cli.main` prints that line and exits with code 2; a traceback means that the fault is ours. Not for
internal invariants: those are assertions.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

# Control characters but tab and newline, separators of lines, what turns the direction of text, and
# halves of surrogate pairs, which have no UTF-8
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


# What is typed as an option may be a secret: credentials in a URL, a field or a parameter that is
# called one, and words that services give out as tokens
_SECRETS = (
    (re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://)[^/\s@'\"]+@", re.I), r"\1***@"),
    (
        re.compile(
            r"(?<![\w.-])([\w.-]*(?:secret|passw(?:or)?d|passphrase|api[_-]?key|access[_-]?key|private[_-]?key"
            r"|credential|signature|bearer|token(?!s|iz))[\w.-]*(?:=|[\"']\s*:\s*[\"']))[^\s&'\",;]+",
            re.I,
        ),
        r"\1***",
    ),
    (
        re.compile(
            r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|AKIA[0-9A-Z]{12,}|AIza[\w-]{30,}|ya29\.[\w.-]{16,}"
            r"|gh[opsur]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}"
            r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
        ),
        "***",
    ),
)


class UserError(Exception):
    """A mistake that the user can correct. The message is a single printable line."""

    def __init__(self, message: str):
        super().__init__(redacted(printable(" ".join(message.split()))))


def printable(text: str) -> str:
    r"""The text with each of these characters written as its escape, such as \x1b."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def redacted(text: str) -> str:
    """The text with what looks like a secret as ***."""
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


def bad_input(where: str, given: str, expected: str, fix: str) -> UserError:
    """A `UserError` in the project's one form: `where: given; expected …; fix`.

    Args:
        where: the place, `file:line` for data, `--section.field` for a config.
        given: what was found there.
        expected: what should have been there.
        fix: what to do next.
    """
    return UserError(f"{where}: {given}; expected {expected}; {fix}")


# What the system refuses for a reason outside of the program → what to do about it
_REFUSALS = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room in your quota",
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.EROFS: "choose a place that can be written to",
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EIO: "look at the disk: it cannot be read or written",
    errno.ESTALE: "mount the network folder again",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "close what holds so many files open",
    errno.ENOMEM: "use a machine with more memory",
    errno.ENOTDIR: "choose another place: a file is where a folder should be",
    errno.EISDIR: "choose another place: a folder is where a file should be",
    errno.ENAMETOOLONG: "choose a shorter name",
}
_GONE = errno.ENOENT  # also of a folder that was removed while the command ran


def system_line(error: BaseException) -> str | None:
    """What the system refused, as one line; None if that is not the reason of `error`. Libraries
    hide the reason in the exception before, or in the words of their own one.
    """
    for reason in _chain(error):
        if isinstance(reason, MemoryError):
            return "out of memory; expected enough for this step; use a machine with more of it"
        if isinstance(reason, OSError) and reason.errno in (*_REFUSALS, _GONE):
            where = str(reason.filename or "the disk")
            return _refused(where, reason.errno)
    said = str(error)
    for number in _REFUSALS:
        if os.strerror(number) in said:
            path = re.search(r"/[^\s'\",;:)\]]+", said)
            return _refused(path[0] if path else "the disk", number)
    return None


def _refused(where: str, number: int) -> str:
    fix = _REFUSALS.get(number, "put it back")
    given = os.strerror(number)
    return f"{where}: {given}; expected to read and write there; {fix}, and start the same again"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that led to it, each once."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        reason = waiting.pop(0)
        if reason is not None and reason not in seen:
            seen.append(reason)
            yield reason
            waiting += [reason.__cause__, reason.__context__]
