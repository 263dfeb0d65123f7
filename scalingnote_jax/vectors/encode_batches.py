"""Which texts are encoded together, and to what length they are padded.

Texts are sorted by length over all that there are, so hardly anything is padding; and a batch of
short texts has more of them, so each batch is about the same work. Not for training, where batches
are drawn at random (`data/batches.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh

from scalingnote_jax.config import TextConfig
from scalingnote_jax.text.tokens import bucket_of

_STEP = 8  # lengths are multiples of this: finer ones would save little and compile more
# Each length is a program, and compiling one takes about as long as running it once or twice.
_BATCHES_PER_LENGTH = 2


@dataclass(frozen=True)
class Batch:
    """Texts to be encoded together.

    Attributes:
        places: int64 [n], where they stand among the lengths that were given.
        size: B, at least n: rows of the batch.
        length: L, at least the longest of them.
    """

    places: np.ndarray
    size: int
    length: int


def rows_of(batch_size: int, mesh: Mesh) -> int:
    """The rows of a batch that `EncodeConfig.batch_size` asks for on this mesh.

    A CPU is fastest while a batch's activations stay in its caches, and smaller batches have less
    padding; an accelerator has to be filled.
    """
    return batch_size or (16 if mesh.devices.flat[0].platform == "cpu" else 64)


def batches(lengths: np.ndarray, text: TextConfig, rows: int, shards: int) -> Iterator[Batch]:
    """Batches of all texts, longest first.

    Args:
        lengths: [n], tokens of each, at most `text.max_tokens`.
        rows: texts of `max_tokens` in a batch; of shorter ones as many more as have no more tokens.
        shards: sizes are multiples of this.
    """
    order = np.argsort(-lengths, kind="stable")
    allowed = _lengths(int(lengths.sum()), text, rows)
    start = 0
    while start < len(order):
        length = bucket_of(int(lengths[order[start]]), allowed)
        size = max(rows * text.max_tokens // length // shards, 1) * shards
        places = order[start : start + size]
        yield Batch(places, min(size, _round_up(len(places), shards)), length)
        start += len(places)


def _lengths(tokens: int, text: TextConfig, rows: int) -> list[int]:
    """The lengths that batches may have: the fewer batches, the fewer; never fewer than buckets."""
    expected = tokens // (rows * text.max_tokens)
    count = max(expected // _BATCHES_PER_LENGTH, 1)
    step = -(-text.max_tokens // (count * _STEP)) * _STEP
    fine = [*range(step, text.max_tokens, step), text.max_tokens]
    return fine if len(fine) > len(text.buckets) else list(text.buckets)


def _round_up(rows: int, shards: int) -> int:
    """The next power of two of batch shards: one query must not pay for a full batch, nor each
    count compile anew.
    """
    size = shards
    while size < rows:
        size *= 2
    return size
