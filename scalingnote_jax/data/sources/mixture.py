"""Several collections as one: their documents, queries and judgements one after the other, each id
with the collection's name and a colon in front, so that none clash.

Not for how batches are mixed: see `members.py` beside this folder.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.sources.base import Document, Qrels, Query, Source
from scalingnote_jax.errors import bad_input
from scalingnote_jax.hashing import content_hash

OPTION = "--data.mixture"
KINDS = typing.get_args(typing.get_type_hints(DataConfig)["source"])
_NAME = re.compile(r"[A-Za-z0-9._-]+")

Record = TypeVar("Record", Document, Query)


def members(cfg: DataConfig) -> dict[str, DataConfig]:
    """Name → config of each collection of the mixture, in its order.

    An entry is PATH, NAME=PATH, KIND:PATH or NAME=KIND:PATH; the kind is one of `--data.source` and
    otherwise that of the config, the name otherwise the last part of the path.

    Raises:
        UserError: a name that is none, or that two collections have.
    """
    found: dict[str, DataConfig] = {}
    for entry in cfg.mixture:
        name, sign, rest = entry.partition("=")
        if not sign or not _NAME.fullmatch(name):
            name, rest = "", entry
        kind, colon, path = rest.partition(":")
        if not colon or kind not in KINDS:
            kind, path = cfg.source, rest
        name = name or Path(path).name
        if not _NAME.fullmatch(name):
            expected = "NAME=PATH with a name of letters, digits, '.', '_' and '-'"
            raise bad_input(OPTION, repr(entry), expected, "name the collection")
        if name in found:
            given = f"two collections with the name {name!r}"
            raise bad_input(OPTION, given, "a name of its own for each", f"write NAME={rest}")
        alone: dict[str, Any] = {"mixture": (), "query_prompts": (), "doc_prompts": ()}
        found[name] = replace(cfg, **alone | {"source": kind, "path": path})
    return found


def prompts(cfg: DataConfig, field: str) -> dict[str, str]:
    """Name → what stands in front of each text of that collection; `field` is "query_prompts" or
    "doc_prompts".

    Raises:
        UserError: an entry that is not NAME=PROMPT with the name of a collection.
    """
    known, found = members(cfg), {}
    for entry in getattr(cfg, field):
        name, sign, prompt = entry.partition("=")
        if not sign or name not in known:
            expected = f"NAME=PROMPT with a collection of {OPTION}: {', '.join(known) or 'none'}"
            raise bad_input(f"--data.{field}", repr(entry), expected, "check the name")
        found[name] = prompt
    return found


def check_mixture(cfg: DataConfig, weights: tuple[float, ...], single: bool) -> None:
    """Refuses options of a mixture that do not fit it, before anything is read.

    Raises:
        UserError: prompts, weights or batches for other collections than there are.
    """
    for field in ("query_prompts", "doc_prompts"):
        prompts(cfg, field)
    count = len(members(cfg))
    if weights and (len(weights) != count or min(weights) < 0 or sum(weights) <= 0):
        raise bad_input(
            "--train.mixture_weights",
            f"{weights} for {count} collections",
            f"a weight for each entry of {OPTION}, none below 0",
            "give as many",
        )
    if single and not count:
        given, fix = "true without a mixture", "set it to false"
        raise bad_input("--train.single_collection_batches", given, f"with {OPTION}", fix)


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
