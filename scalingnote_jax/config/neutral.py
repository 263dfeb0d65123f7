"""The options that change no number: how a result is computed, shown or kept, not what it is."""

from __future__ import annotations

from fnmatch import fnmatchcase

NEUTRAL = (
    "mesh.*",
    "*.log_every",
    "*.checkpoint_every",
    "*.remat",
    "train.encode_chunks",
    "train.loss",
    "train.loss_tile",
    "encode.batch_size",
    "encode.shard_rows",
    "eval.exact.block_rows",
    "eval.exact.query_block",
    "eval.exact.device_rows",
)


def is_neutral(name: str) -> bool:
    """Whether a field, "section.field", changes no number."""
    return any(fnmatchcase(name, pattern) for pattern in NEUTRAL)
