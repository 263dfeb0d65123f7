"""The texts of found documents, by id: all of an answer in one read, since records that are read
one by one take ten times as long.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.collection import Collection
from scalingnote_jax.data.sources.mixture import bare
from scalingnote_jax.vectors.given_texts import given_document

Pair = tuple[str, str]  # title and text


class CollectionTexts(Mapping[str, Pair]):
    """Id → (title, text) of a collection's documents, read from disk when they are asked for."""

    def __init__(self, collection: Collection, data: DataConfig | None = None):
        """`data`: what the collection was built from; the prompts of a mixture are left out."""
        self._documents, self._data = collection.documents, data
        self._rows = {doc_id: row for row, doc_id in enumerate(collection.doc_ids)}

    def many(self, ids: Sequence[str]) -> list[Pair]:
        """Of each id, in one read."""
        documents: Any = self._documents.take([self._rows[i] for i in ids])
        if self._data is not None:
            documents = bare(self._data, documents)
        return [(d.title, d.text) for d in documents]

    def __getitem__(self, doc_id: str) -> Pair:
        return self.many([doc_id])[0]

    def __contains__(self, doc_id: object) -> bool:
        return doc_id in self._rows  # a Mapping's own would read the record

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def texts_of(texts: Mapping[str, Any], ids: Sequence[str]) -> list[Pair]:
    """(title, text) of each id; two empty ones where there is no text.

    Args:
        texts: id → text, (title, text) or a mapping with both.

    Raises:
        UserError: a value is none of these.
    """
    known = [i for i in ids if i in texts]
    if isinstance(texts, CollectionTexts):
        found = dict(zip(known, texts.many(known), strict=True))
    else:
        found = {i: given_document(texts[i], f"the text of {i!r}") for i in known}
    return [found.get(i, ("", "")) for i in ids]
