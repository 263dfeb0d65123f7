"""What every source of raw texts gives: documents, queries and judgements, one at a time.

Not for storage or tokens: `dataset.py` checks a source as a whole and writes it down, `tokens.py`
turns texts into numbers.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

SPLITS = ("train", "dev", "test")
SPLIT_NAMES = {"train": ("train",), "dev": ("dev", "validation"), "test": ("test",)}
"""What other people's data calls the splits; the first that is there counts."""

Qrels = dict[str, dict[str, int]]
"""Query id → document id → grade. Above 0 is relevant; 0 was judged and is not."""


@dataclass(frozen=True)
class Document:
    """A text that can be found. Title and text may be empty; what becomes of a document where both
    are, `survey.py` decides.
    """

    id: str
    title: str
    text: str


@dataclass(frozen=True)
class Query:
    """A text that is searched with."""

    id: str
    text: str


def fold(text: str) -> str:
    """The form in which two texts count as the same: case, white space and the forms that Unicode
    has for one character (NFKC) do not matter.
    """
    if not text.isascii():
        # Before too: a decomposed character has another casefold than a composed one
        folded = unicodedata.normalize("NFKC", text).casefold()
        return " ".join(unicodedata.normalize("NFKC", folded).split())
    return " ".join(text.casefold().split())


class Source(Protocol):
    """Raw texts, checked one by one: whatever is wrong raises a `UserError` that names the place.

    Every method can be called again and then gives the same in the same order. Texts encode to
    UTF-8 and are no longer than `--data.max_text_bytes`; ids are unique, not empty and without
    white space.
    """

    def fingerprint(self) -> str:
        """SHA-256 (hex) that changes with the content and with the options that shape it. Cheap."""
        ...

    def documents(self) -> Iterator[Document]:
        """The corpus, streamed."""
        ...

    def queries(self) -> Iterator[Query]:
        """All queries, also those that no split judges."""
        ...

    def qrels(self, split: str) -> Qrels:
        """The judgements of one split; {} if there is no such split. Ids are not looked up here."""
        ...

    def judged_at(self, split: str, query_id: str, doc_id: str) -> str:
        """The place of a judgement, `file:line` where there are files. Only for error messages."""
        ...


class NoTexts:
    """The source of a run that has document vectors and no texts."""

    def fingerprint(self) -> str:
        """As for `Source`; there is one such source."""
        return "none"

    def documents(self) -> Iterator[Document]:
        """None."""
        return iter(())

    def queries(self) -> Iterator[Query]:
        """None."""
        return iter(())

    def qrels(self, split: str) -> Qrels:
        """None."""
        return {}

    def judged_at(self, split: str, query_id: str, doc_id: str) -> str:
        """Never asked."""
        return "data.source=none"
