"""How a prompt is written: {title} and {text} are filled in, the rest are its own words.

Only the form: ready-made prompts, filling in and cutting are in `text/prompts.py`.
"""

from __future__ import annotations

import re

MARKER = "[EMB]"  # with pooling="marker", the vector is the state of the last token before it
FIELD = re.compile(r"\{(title|text)\}")


def own_words(prompt: str) -> str:
    """The prompt without title and text."""
    return FIELD.sub("", prompt)


def last_words(prompt: str) -> str:
    """What stands behind the last title or text of a prompt."""
    return FIELD.split(prompt)[-1]


def title_is_first(prompt: str) -> bool:
    """Whether the title stands before the text, so that a causal decoder reads it alone."""
    return -1 < prompt.find("{title}") < prompt.find("{text}")
