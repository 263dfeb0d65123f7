"""Splits for data that has none: by a hash of each unit, so that a unit's split depends on nothing
else and one unit more moves no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.sources.base import SPLITS, Qrels
from scalingnote_jax.errors import bad_input
from scalingnote_jax.progress import say


def split_of(unit: str, cfg: DataConfig) -> str:
    """The split of a unit: a module, a group of queries."""
    place = int.from_bytes(digest(unit)) % 100
    if place < cfg.test_percent:
        return "test"
    return "dev" if place < cfg.test_percent + cfg.dev_percent else "train"


def digest(text: str) -> bytes:
    """64 bits that stand for a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def cut(qrels: Qrels, cfg: DataConfig, text_of: Callable[[str], str]) -> dict[str, Qrels]:
    """Judgements without splits, cut into all three; which group goes where, `cfg.seed` draws.

    Args:
        text_of: the id of a query or a document → what stands for its text.

    Raises:
        UserError: nothing is left to train on.
    """
    found: dict[str, Qrels] = {split: {} for split in SPLITS}
    if not qrels:
        return found
    groups = linked_queries(qrels, text_of)
    for query_id, group in groups.items():
        found[split_of(f"{cfg.seed} {group}", cfg)][query_id] = qrels[query_id]
    whole = f"{len(qrels):,} queries in {len(set(groups.values())):,} groups that share no text"
    if not found["train"]:
        given, expected = f"all {whole} are in dev or test", "something to train on"
        fix = "lower it, try another --data.seed, or give a file for each split"
        raise bad_input("--data.test_percent", given, expected, fix)
    say(f"{whole}: {', '.join(f'{split} {len(found[split]):,}' for split in SPLITS)}")
    return found


def linked_queries(qrels: Qrels, text_of: Callable[[str], str]) -> dict[str, str]:
    """Query id → its group's name, the smallest of its query ids. Texts are linked that are a query
    and a relevant document of it, and so is what each of them is linked with: queries that have a
    relevant document in common, or of which one is relevant to the other, are of one group.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    queries = sorted(qrels)
    texts: dict[str, int] = {}
    places = [texts.setdefault(text_of(query_id), len(texts)) for query_id in queries]
    edges = [
        (place, texts.setdefault(text_of(doc_id), len(texts)))
        for place, query_id in zip(places, queries, strict=True)
        for doc_id, grade in qrels[query_id].items()
        if grade > 0
    ]
    ends = np.array(edges, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(edges), np.int8), tuple(ends)), shape=(len(texts), len(texts)))
    _, labels = connected_components(graph, directed=False)
    names: dict[int, str] = {}
    of_queries = zip(queries, labels[places].tolist(), strict=True)
    return {query_id: names.setdefault(label, query_id) for query_id, label in of_queries}
