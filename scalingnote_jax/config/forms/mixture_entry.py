"""How the collections of `data.mixture` and their prompts are written. Opens none: see
`data/sources/mixture.py`.
"""

from __future__ import annotations

import re
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any

from scalingnote_jax.config import DataConfig
from scalingnote_jax.errors import bad_input

OPTION = "--data.mixture"
_KINDS = typing.get_args(typing.get_type_hints(DataConfig)["source"])
_NAME = re.compile(r"[A-Za-z0-9._-]+")


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
        if not colon or kind not in _KINDS:
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


def prompt_of(cfg: DataConfig, field: str, collection: str | None) -> str:
    """What stands in front of a text that comes from outside, as in front of those that were
    trained on; `field` as for `prompts`.

    Args:
        collection: of the mixture, that the text is for; None where all have the same prompt.

    Raises:
        UserError: prompts differ and none was named, or the name is of no collection.
    """
    known = members(cfg)
    each = {name: prompts(cfg, field).get(name, "") for name in known}
    if collection is not None and collection not in each:
        expected = f"one of {', '.join(known)}" if known else f"none without {OPTION}"
        raise bad_input("collection", repr(collection), expected, "change it or leave it out")
    if collection is None and len(set(each.values())) > 1:
        given, fix = f"none, and --data.{field} differs between them", "name the one that it is for"
        raise bad_input("collection", given, f"one of {', '.join(known)}", fix)
    return each[collection] if collection is not None else next(iter(each.values()), "")


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
