"""Which form of the contrastive loss a step compiles: all scores at once, or tiles of them. Both
give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from jax.sharding import Mesh

from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.losses.blockwise import blockwise_loss
from scalingnote_jax.losses.contrastive import contrastive_loss

FLOAT32_BYTES = 4
# Value and gradient of the dense form hold about three times this (tests/bench/loss.py).
MAX_DENSE_BYTES = 32 * 2**20


class ContrastiveSettings(Protocol):
    """What of a `TrainConfig` decides about the loss and its form; see there."""

    @property
    def symmetric(self) -> bool: ...
    @property
    def false_negative_margin(self) -> float | None: ...
    @property
    def w_spread(self) -> float: ...
    @property
    def loss(self) -> str: ...
    @property
    def loss_tile(self) -> int: ...


@dataclass(frozen=True)
class OneWay:
    """Settings of queries against documents alone, without the spread-out term."""

    false_negative_margin: float | None
    symmetric: bool = False
    w_spread: float = 0.0
    loss: str = "auto"
    loss_tile: int = 2048


def dense_score_bytes(
    cfg: ContrastiveSettings, queries: int, documents: int, mesh: Mesh | None
) -> int:
    """Bytes of scores that the dense form makes on each device, both directions together.

    Args:
        cfg: says whether there are two.
        queries, documents: B and N of the global batch.
        mesh: None for one device.
    """
    scores = queries * (documents + (queries if cfg.symmetric else 0))
    return scores * FLOAT32_BYTES // (mesh_lib.batch_shards(mesh) if mesh else 1)


def is_blockwise(cfg: ContrastiveSettings, queries: int, documents: int, mesh: Mesh | None) -> bool:
    """Whether the config takes the blockwise form for a batch of this size."""
    if cfg.loss == "auto":
        return dense_score_bytes(cfg, queries, documents, mesh) > MAX_DENSE_BYTES
    return cfg.loss == "blockwise"


def held_score_bytes(
    cfg: ContrastiveSettings, queries: int, documents: int, mesh: Mesh | None
) -> int:
    """Bytes of scores that the chosen form holds on each device at a time."""
    held = dense_score_bytes(cfg, queries, documents, mesh)
    if is_blockwise(cfg, queries, documents, mesh):
        return held * min(cfg.loss_tile, documents) // documents
    return held


def contrastive_form(
    cfg: ContrastiveSettings, queries: int, documents: int, mesh: Mesh | None
) -> Callable[..., Any]:
    """`contrastive_loss` or `blockwise_loss` with the config's settings filled in.

    Args:
        cfg: `loss`, `loss_tile`, `symmetric`, `false_negative_margin`, `w_spread`.
        queries, documents: B and N of the global batch.
        mesh: where its rows lie; None for one device.
    """
    settings: dict[str, Any] = {
        "symmetric": cfg.symmetric,
        "false_negative_margin": cfg.false_negative_margin,
        "w_spread": cfg.w_spread,
    }
    if is_blockwise(cfg, queries, documents, mesh):
        return partial(blockwise_loss, tile=cfg.loss_tile, mesh=mesh, **settings)
    return partial(contrastive_loss, **settings)
