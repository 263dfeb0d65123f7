"""BM25, the lexical row of the evaluation: what word matching alone finds.

bm25s with k1 = 0.9 and b = 0.4, its English stop words, Snowball's English stemmer; text in
Chinese, Japanese or Korean script is cut into character bigrams. Held in memory: right for corpora
of up to a few million documents.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence

import bm25s
import numpy as np
import Stemmer
from bm25s.tokenization import Tokenizer

from scalingnote_jax.data.sources.base import Document, Query
from scalingnote_jax.text.scripts import CJK

K1, B = 0.9, 0.4
logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG
_PIECES = re.compile(f"[{CJK}]+|[^\\W{CJK}]{{2,}}")
_FIRST_CJK = re.compile(f"[{CJK}]")


class Bm25:
    """An inverted index of documents, title and text together."""

    def __init__(self, documents: Iterable[Document]):
        self._ids: list[str] = []
        texts = []
        for doc in documents:
            self._ids.append(doc.id)
            texts.append(f"{doc.title} {doc.text}")
        self._words = Tokenizer(splitter=split, stopwords="en", stemmer=Stemmer.Stemmer("english"))
        self._index = _index(self._words, texts)

    def search(self, text: str, k: int) -> list[tuple[str, float]]:
        """At most k (document id, score > 0), best first, equal scores in document order; none for
        a query that shares no word with any document.
        """
        return _best(_scores(self._index, self._words, text), self._ids, k)


def bm25_run(
    documents: Iterable[Document], queries: Sequence[Query], depth: int
) -> tuple[dict[str, list[tuple[str, float]]], Bm25]:
    """Query id → `Bm25.search` of that depth, and the index that was asked."""
    index = Bm25(documents)
    return {query.id: index.search(query.text, depth) for query in queries}, index


def split(text: str) -> list[str]:
    """Words of two characters or more; Chinese, Japanese or Korean script as character bigrams."""
    pieces: list[str] = []
    for piece in _PIECES.findall(text):
        if len(piece) > 2 and _FIRST_CJK.match(piece):
            pieces += [piece[i : i + 2] for i in range(len(piece) - 1)]
        else:
            pieces.append(piece)
    return pieces


def _index(words: Tokenizer, texts: list[str]) -> bm25s.BM25 | None:
    """The inverted index; None when no text has a word, which bm25s cannot index."""
    tokens = words.tokenize(texts, update_vocab=True, show_progress=False, allow_empty=False)
    if not any(tokens):
        return None
    index = bm25s.BM25(k1=K1, b=B)
    index.index((tokens, words.get_vocab_dict()), create_empty_token=False, show_progress=False)
    return index


def _scores(index: bm25s.BM25 | None, words: Tokenizer, text: str) -> np.ndarray:
    """[n] BM25 scores of all documents; empty without an index."""
    if index is None:
        return np.empty(0, np.float32)
    known = words.tokenize([text], update_vocab=False, show_progress=False, allow_empty=False)
    return index.get_scores_from_ids(known[0])


def _best(scores: np.ndarray, ids: list[str], depth: int) -> list[tuple[str, float]]:
    rows = np.flatnonzero(scores > 0)
    order = rows[np.argsort(-scores[rows], kind="stable")[:depth]]
    return [(ids[row], float(scores[row])) for row in order]
