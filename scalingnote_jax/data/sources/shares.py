"""Splits for data that has none: by a hash of each unit, so that a unit's split depends on nothing
else and one unit more moves no other.
"""

from __future__ import annotations

import hashlib

from scalingnote_jax.config import DataConfig
from scalingnote_jax.errors import bad_input


def check_shares(cfg: DataConfig) -> None:
    """
    Raises:
        UserError: the shares of dev and test leave nothing to train on.
    """
    if min(cfg.test_percent, cfg.dev_percent) < 0 or cfg.test_percent + cfg.dev_percent >= 100:
        raise bad_input(
            "--data.test_percent",
            f"{cfg.test_percent}, and {cfg.dev_percent} for --data.dev_percent",
            "two shares from 0 that leave something for training",
            "lower one of them",
        )


def split_of(unit: str, cfg: DataConfig) -> str:
    """The split of a unit: a module, a query."""
    place = int.from_bytes(digest(unit)) % 100
    if place < cfg.test_percent:
        return "test"
    return "dev" if place < cfg.test_percent + cfg.dev_percent else "train"


def digest(text: str) -> bytes:
    """64 bits that stand for a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
