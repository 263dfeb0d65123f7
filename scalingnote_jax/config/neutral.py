"""Which fields change no number of a run, only where, how fast and how often watched it goes.

A workdir stays its config's when one of them changes, and no step is done again. Left out on
purpose, though they look alike:
- `eval.exact.*`: with `recall_target` below 1 the sizes of the blocks decide what is found;
- `index.max_shard_rows`: several parts are several indexes;
- `*.accumulate`, `*.bucket_window`: they decide which texts are each other's negatives, and in
  stage 2 of which texts the figures of a batch are;
- `distill.probe_queries`: the figures of the probe are of other texts.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

_PATTERNS = (
    "mesh.*",
    "*.log_every",
    "*.checkpoint_every",
    "distill.probe_every",
    "train.encode_chunks",  # a chunk's gradient is that of its rows in the whole batch
    "train.loss",  # both forms give the same loss and gradient
    "train.loss_tile",
    "*.remat",
    "encode.batch_size",  # every text is encoded by itself
    "encode.shard_rows",  # rows per file
)


def is_neutral(field: str) -> bool:
    """Whether a leaf field, such as "train.log_every", changes no number."""
    return any(fnmatchcase(field, pattern) for pattern in _PATTERNS)
