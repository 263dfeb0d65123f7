"""The one exception that speaks to a person, and which characters may be shown to them.

Whatever a user can get wrong (a missing file, a broken line, a config that cannot work) raises
`UserError` with one line that says where, what was given, what was expected and what to do next.
`cli.main` prints that line and exits with code 2; a traceback means that the fault is ours. Not for
internal invariants: those are assertions.
"""

from __future__ import annotations

import re

# Control characters but tab and newline, separators of lines, what turns the direction of text, and
# halves of surrogate pairs, which have no UTF-8
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(Exception):
    """A mistake that the user can correct. The message is a single printable line."""

    def __init__(self, message: str):
        super().__init__(printable(" ".join(message.split())))


def printable(text: str) -> str:
    r"""The text with each of these characters written as its escape, such as \x1b."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def bad_input(where: str, given: str, expected: str, fix: str) -> UserError:
    """A `UserError` in the project's one form: `where: given; expected …; fix`.

    Args:
        where: the place, `file:line` for data, `--section.field` for a config.
        given: what was found there.
        expected: what should have been there.
        fix: what to do next.
    """
    return UserError(f"{where}: {given}; expected {expected}; {fix}")
