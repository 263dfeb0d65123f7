"""BM25, the lexical row of the evaluation: what word matching alone finds.

bm25s with k1 = 0.9 and b = 0.4, its English stop words, Snowball's English stemmer. Texts are
brought to Unicode's form NFC; a word keeps its combining marks (vowel signs, accents, points).
Where no spaces part the words, text is cut into bigrams: of characters in Chinese, Japanese and
Korean script; of letters with their marks in Thai, Lao, Khmer, Myanmar and their relatives. Held in
memory: right for corpora of up to a few million documents.
"""

from __future__ import annotations

import functools
import itertools
import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import bm25s
import numpy as np
import Stemmer
from bm25s.tokenization import Tokenizer

from scalingnote_jax.data.sources.base import Document, Query
from scalingnote_jax.text.scripts import CJK, CJK_MORE, INVISIBLE, SOUTH_EAST_ASIAN, marks

K1, B = 0.9, 0.4
_VOCABULARY = "words.json"
logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG
_WORDS = re.compile(r"\w{2,}")
_ASCII_WORDS = re.compile(r"\w{2,}", re.ASCII)
_INVISIBLE = re.compile(f"[{INVISIBLE}]")


class Bm25:
    """An inverted index of documents, title and text together."""

    def __init__(self, documents: Iterable[Document]):
        self._ids: list[str] = []
        texts = []
        for doc in documents:
            self._ids.append(doc.id)
            texts.append(f"{doc.title} {doc.text}")
        self._words = _tokenizer()
        self._index = _index(self._words, texts)

    def save(self, folder: Path) -> None:
        """Writes the index into a folder; the ids of its rows are not in it."""
        self._words.save_vocab(str(folder), _VOCABULARY)
        if self._index is not None:
            self._index.save(str(folder), allow_pickle=False, show_progress=False)

    @classmethod
    def open(cls, folder: Path, ids: list[str]) -> Bm25:
        """What `save` wrote, memory-mapped; `ids` of the documents, in their order."""
        index = cls(())
        index._ids = ids
        index._words.load_vocab(str(folder), _VOCABULARY)
        if any(folder.glob("*.npy")):
            index._index = bm25s.BM25.load(
                str(folder), mmap=True, allow_pickle=False, load_vocab=False
            )
        return index

    def search_many(self, texts: Sequence[str], k: int) -> list[list[tuple[str, float]]]:
        """`search` of each text."""
        if self._index is None or not texts:
            return [[] for _ in texts]
        known = self._words.tokenize(
            list(texts), update_vocab=False, show_progress=False, allow_empty=False
        )
        scored = (self._index.get_scores_from_ids(ids) for ids in known)
        return [_best(scores, self._ids, k) for scores in scored]

    def search(self, text: str, k: int) -> list[tuple[str, float]]:
        """At most k (document id, score > 0), best first, equal scores in document order; none for
        a query that shares no word with any document.
        """
        return self.search_many([text], k)[0]


def bm25_run(
    documents: Iterable[Document], queries: Sequence[Query], depth: int
) -> tuple[dict[str, list[tuple[str, float]]], Bm25]:
    """Query id → `Bm25.search` of that depth, and the index that was asked."""
    index = Bm25(documents)
    return {query.id: index.search(query.text, depth) for query in queries}, index


def split(text: str) -> list[str]:
    """Words of two characters or more, and bigrams where no spaces part words: see the module."""
    if text.isascii():
        return _ASCII_WORDS.findall(text)
    # A lower-case Turkish capital I with a dot is an i with a dot above it
    text = unicodedata.normalize("NFC", _INVISIBLE.sub("", text)).replace("i\u0307", "i")
    patterns = _patterns()
    if not patterns.special.search(text):
        return _WORDS.findall(text)
    pieces: list[str] = []
    for characters, letters, word in patterns.pieces.findall(text):
        if word:
            pieces.append(word)
        else:
            pieces += _bigrams(characters or patterns.letter.findall(letters))
    return pieces


@dataclass(frozen=True)
class _Patterns:
    """How text is cut that is not of plain words.

    Attributes:
        special: what plain words do not hold.
        pieces: a run of characters, or one of letters with their marks, where no spaces part words;
            or a word with its marks.
        letter: one of such letters, with its marks.
    """

    special: re.Pattern[str]
    pieces: re.Pattern[str]
    letter: re.Pattern[str]


@functools.cache
def _patterns() -> _Patterns:
    """Made when first needed: to list the marks takes some milliseconds."""
    cjk, mark = CJK + CJK_MORE, marks()
    first = f"[^\\W{cjk}{SOUTH_EAST_ASIAN}]"
    return _Patterns(
        re.compile(f"[{cjk}{SOUTH_EAST_ASIAN}{mark}]"),
        re.compile(
            f"([{cjk}]+)|((?:(?!\\W)[{SOUTH_EAST_ASIAN}][{mark}]*)+)|({first}(?:[{mark}]|{first})+)"
        ),
        re.compile(f".[{mark}]*"),
    )


def _bigrams(letters: Sequence[str]) -> list[str]:
    """One letter or two are one piece."""
    if len(letters) < 3:
        return ["".join(letters)]
    return ["".join(pair) for pair in itertools.pairwise(letters)]


def _tokenizer() -> Tokenizer:
    return Tokenizer(splitter=split, stopwords="en", stemmer=Stemmer.Stemmer("english"))


def _index(words: Tokenizer, texts: list[str]) -> bm25s.BM25 | None:
    """The inverted index; None when no text has a word, which bm25s cannot index."""
    tokens = words.tokenize(texts, update_vocab=True, show_progress=False, allow_empty=False)
    if not any(tokens):
        return None
    index = bm25s.BM25(k1=K1, b=B)
    index.index((tokens, words.get_vocab_dict()), create_empty_token=False, show_progress=False)
    return index


def _best(scores: np.ndarray, ids: list[str], depth: int) -> list[tuple[str, float]]:
    rows = np.flatnonzero(scores > 0)
    if len(rows) > 10 * depth:  # sorts a part only: of equal scores at its end, all
        least = np.partition(scores[rows], len(rows) - depth)[len(rows) - depth]
        rows = rows[scores[rows] >= least]
    order = rows[np.argsort(-scores[rows], kind="stable")[:depth]]
    return [(ids[row], float(scores[row])) for row in order]
