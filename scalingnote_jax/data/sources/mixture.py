"""Several collections as one: their documents, queries and judgements one after the other, each id
with the collection's name and a colon in front, so that none clash.

Not for how batches are mixed: see `members.py` beside this folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

from scalingnote_jax.config import DataConfig
from scalingnote_jax.config.forms.mixture_entry import members, prompts
from scalingnote_jax.data.sources.base import Document, Qrels, Query, Source
from scalingnote_jax.hashing import content_hash

Record = TypeVar("Record", Document, Query)


class MixtureSource:
    """The collections of `cfg.mixture`, one after the other. See `Source` for the methods."""

    def __init__(self, cfg: DataConfig, open_source: Callable[[DataConfig], Source]):
        """`open_source`: opens a collection by its own config."""
        self._sources = {name: open_source(member) for name, member in members(cfg).items()}
        self._query_prompts = prompts(cfg, "query_prompts")
        self._doc_prompts = prompts(cfg, "doc_prompts")

    def fingerprint(self) -> str:
        """Over those of the collections, in order, and the prompts."""
        each = {name: source.fingerprint() for name, source in self._sources.items()}
        return content_hash([list(each.items()), self._query_prompts, self._doc_prompts])

    def documents(self) -> Iterator[Document]:
        """Those of each collection; a text gets its collection's prompt in front."""
        for name, source in self._sources.items():
            prompt = self._doc_prompts.get(name, "")
            for doc in source.documents():
                # What has no text stays so: `survey.py` decides about it
                text = prompt + doc.text if doc.text.strip() else doc.text
                yield Document(f"{name}:{doc.id}", doc.title, text)

    def queries(self) -> Iterator[Query]:
        """Likewise."""
        for name, source in self._sources.items():
            prompt = self._query_prompts.get(name, "")
            for query in source.queries():
                yield Query(f"{name}:{query.id}", prompt + query.text)

    def qrels(self, split: str) -> Qrels:
        """The judgements of all collections that have the split."""
        found: Qrels = {}
        for name, source in self._sources.items():
            for query_id, grades in source.qrels(split).items():
                named = {f"{name}:{doc_id}": grade for doc_id, grade in grades.items()}
                found[f"{name}:{query_id}"] = named
        return found

    def judged_at(self, split: str, query_id: str, doc_id: str) -> str:
        """As the collection itself says it."""
        name, _, query_id = query_id.partition(":")
        return self._sources[name].judged_at(split, query_id, doc_id.partition(":")[2])


def bare(cfg: DataConfig, records: Iterable[Record]) -> Iterator[Record]:
    """The records without their collection's prompt, for whoever matches words."""
    of = {Query: prompts(cfg, "query_prompts"), Document: prompts(cfg, "doc_prompts")}
    for record in records:
        prompt = of[type(record)].get(record.id.partition(":")[0], "")
        yield replace(record, text=record.text.removeprefix(prompt)) if prompt else record
