"""Prompts: the words around a title and a text, and how both are cut to a number of tokens.

What is too long is cut inside of the title and of the text. The prompt's own words all stay, so
what stands behind the text (an instruction, a marker) is there for the longest text too.

The paper's prompts were not published. Those here are our own words for what is known of them: they
show a note's title and its content (our documents have no topic), and NoteLLM, of the same group,
asks for the note as one word and takes the state before a marker token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scalingnote_jax.config import TextConfig
from scalingnote_jax.config.forms.prompt import FIELD, MARKER
from scalingnote_jax.errors import bad_input
from scalingnote_jax.text.tokenizer import TextTokenizer

NOTE = "Title: {title}\nContent: {text}"
NOTE_AS_A_WORD = f"A note. Title: {{title}}\nContent: {{text}}\nThis note in one word: {MARKER}"
QUERY_AS_A_WORD = f"A search query: {{text}}\nThis query in one word: {MARKER}"

_NO_TITLE = -1


class Field(NamedTuple):
    """A title or a text in a rendered prompt.

    Attributes:
        name: "title" or "text".
        start, end: its characters.
        free: the first character behind the prompt's words before it. A token that begins there
            has some of the white space between, and is the field's.
    """

    name: str
    start: int
    end: int
    free: int


def render(cfg: TextConfig, title: str, text: str) -> str:
    """The prompt with title and text filled in.

    Where there is no text and the prompt does not show the title, the title is the text: real
    collections have documents that are a title only.
    """
    return lay_out(cfg, title, text)[0]


def lay_out(cfg: TextConfig, title: str, text: str) -> tuple[str, list[Field]]:
    """As `render`, and where the title and the text lie in it."""
    values = {"title": title, "text": text}
    if not text.strip() and "{title}" not in cfg.prompt:
        values["text"] = title
    whole, fields, done = "", [], 0
    for match in FIELD.finditer(cfg.prompt):
        whole += cfg.prompt[done : match.start()]
        start, free = len(whole), len(whole.rstrip())
        whole += values[match[1]]
        fields.append(Field(match[1], start, len(whole), free))
        done = match.end()
    return whole + cfg.prompt[done:], fields


def encode_pairs(
    pairs: Sequence[tuple[str, str]],
    cfg: TextConfig,
    tokenizer: TextTokenizer,
    *,
    to_marker: bool = False,
    title_ends: bool = False,
) -> tuple[list[list[int]], list[int]]:
    """Token ids of (title, text) pairs in their prompt, at most `max_tokens` each.

    Args:
        to_marker: leaves out the last MARKER and what follows. A causal decoder's states before it
            are the same with and without.
        title_ends: also says where the titles end.

    Returns:
        The ids of each pair; and if asked for, of each the place of the last token before the text,
        -1 where there is no title.

    Raises:
        UserError: `max_tokens` has no room for a text beside the prompt.
    """
    one_field = cfg.prompt.endswith("{text}") and "{title}" not in cfg.prompt
    if one_field and not (to_marker or title_ends):  # cut at its end; the tokenizer is faster
        return tokenizer.encode([render(cfg, *pair) for pair in pairs], cfg.max_tokens), []
    laid_out = [lay_out(cfg, *pair) for pair in pairs]
    rows, ends = [], []
    found = tokenizer.encode_whole([whole for whole, _ in laid_out])
    for (title, _), (whole, fields), (ids, spans) in zip(pairs, laid_out, found, strict=True):
        places = np.array(spans).reshape(-1, 2)
        if to_marker:
            behind = places[:, 1] > whole.rindex(MARKER)
            places = places[: np.argmax(behind) if behind.any() else len(places)]
        kept = _cut(places, fields, cfg)
        rows.append([ids[i] for i in kept] or [tokenizer.pad_id])
        if title_ends:
            ends.append(_before_text(places[kept], fields) if title.strip() else _NO_TITLE)
    return rows, ends


def _cut(places: np.ndarray, fields: Sequence[Field], cfg: TextConfig) -> np.ndarray:
    """Which tokens stay: int64, ascending.

    Args:
        places: int [tokens, 2], the characters [start, end) of each; (0, 0) for special tokens.
        fields: of the same text.
    """
    first, last = places.T
    own = [
        np.flatnonzero((first >= f.free) & (last > f.start) & (last <= f.end)) for f in fields
    ]  # a token with a character of a word of the prompt is not the field's
    room = cfg.max_tokens - (len(places) - sum(map(len, own)))
    if room < 1:
        raise bad_input(
            "text.max_tokens",
            f"{cfg.max_tokens}, and the prompt alone has {cfg.max_tokens - room} tokens",
            "room for a text beside the prompt",
            f"set it to more than {cfg.max_tokens - room}, and the last bucket too",
        )
    keep = np.ones(len(places), bool)
    for field, tokens in sorted(zip(fields, own, strict=True), key=lambda x: x[0].name == "text"):
        limit = cfg.title_tokens if field.name == "title" and cfg.title_tokens else room
        size = min(len(tokens), limit, room)
        keep[tokens[size:]] = False
        room -= size
    return np.flatnonzero(keep)


def _before_text(places: np.ndarray, fields: Sequence[Field]) -> int:
    """The place of the last token that ends before the text begins."""
    text = next(f for f in fields if f.name == "text")
    ends = places[:, 1]  # 0 for special tokens
    before = np.flatnonzero((ends > 0) & (ends <= text.start))
    return int(before[-1]) if len(before) else _NO_TITLE
