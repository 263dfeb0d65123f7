"""What may be shown to a person as it is: texts from files and arguments can hold characters that
move a terminal's cursor, set its title or turn the direction of what is read.
"""

from __future__ import annotations

import re

# Control characters but tab and newline, separators of lines, what turns the direction of text, and
# halves of surrogate pairs, which have no UTF-8
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text with each of these characters written as its escape, such as \x1b."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)
