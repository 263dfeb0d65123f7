"""Which texts of a collection are the same, as numbers; made while the texts pass by, without
holding them.

Not for what follows from it: see `overlaps.py`, `relevance.py`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from scalingnote_jax.data.sources.base import Document, Query, fold

_BYTES = 16  # of a text's hash


@dataclass(frozen=True)
class Groups:
    """Equal numbers: equal texts but for what `fold` takes away. Numbers count up from 0 in the
    order of the documents, then of the queries.

    Attributes:
        docs: int32 [documents], by title and text.
        doc_texts: int32 [documents], by the text alone, or the title where there is no text.
        queries: int32 [queries]; the number of `doc_texts` where a document has the query's text.
    """

    docs: np.ndarray
    doc_texts: np.ndarray
    queries: np.ndarray


@dataclass
class TextHashes:
    """Collects the hashes of texts, 16 bytes each: among 100 million texts two are taken for the
    same with a chance below 1 in 10²².
    """

    _docs: bytearray = field(default_factory=bytearray)
    _texts: bytearray = field(default_factory=bytearray)
    _queries: bytearray = field(default_factory=bytearray)

    def add_document(self, document: Document) -> None:
        """In the order of the rows."""
        title, text = fold(document.title), fold(document.text)
        if not text:
            title, text = "", title
        of_text = _hash(text)
        self._texts += of_text
        self._docs += _hash(f"{title}\n{text}") if title else of_text  # folded, neither has a \n

    def add_query(self, query: Query) -> None:
        """In the order of the rows."""
        self._queries += _hash(fold(query.text))

    def groups(self) -> Groups:
        """The numbers of all that was added."""
        together = _numbered(self._texts + self._queries)
        count = len(self._texts) // _BYTES
        return Groups(_numbered(self._docs), together[:count], together[count:])


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=_BYTES).digest()


def _numbered(hashes: bytearray) -> np.ndarray:
    """int32 [n], equal numbers for equal hashes, from 0 in the order in which they first come."""
    keys = np.frombuffer(bytes(hashes), np.uint64).reshape(-1, _BYTES // 8)
    order = np.lexsort(keys.T)  # stable: the first of equal ones stays first
    ordered = keys[order]
    new = np.ones(len(keys), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    numbers = np.empty(int(new.sum()), np.int32)
    numbers[np.argsort(order[new])] = np.arange(len(numbers), dtype=np.int32)
    found = np.empty(len(keys), np.int32)
    found[order] = numbers[np.cumsum(new) - 1]
    return found
