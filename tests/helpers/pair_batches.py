"""Batches of stage 1 from parts that a test makes by hand."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from scalingnote_jax.data.batches import BatchRules, PairSampler, PairTokens
from scalingnote_jax.data.members import Mixing
from scalingnote_jax.data.negatives import Negatives
from scalingnote_jax.data.packing import Part


def pair_batches(
    collection: Any,
    tables: tuple[Any, Any],
    buckets: tuple[tuple[int, ...], tuple[int, ...]],
    mined: Negatives | None = None,
    mixing: Mixing | None = None,
    **options: Any,
) -> PairSampler:
    """The options are those of `BatchRules` and `Part`; `tables` and `buckets` of queries, then of
    documents.
    """
    of_part = {f.name for f in fields(Part)}
    part = Part(**{name: value for name, value in options.items() if name in of_part})
    rules = BatchRules(**{name: x for name, x in options.items() if name not in of_part})
    return PairSampler(collection, PairTokens(*tables, *buckets), rules, part, mined, mixing)
