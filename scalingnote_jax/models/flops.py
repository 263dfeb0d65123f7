"""FLOPs of a training step from the towers' own shapes: what a model needs, whatever the compiler
makes of it.

Counted are matrix products, two FLOPs for each multiplication: the weights (embedding tables are
looked up, not multiplied), attention over the full L × L square, as it is computed, and the loss.
Backward costs one product for the inputs and one for the weights that are trained. What remat does
again is kept apart: it is work, but not the model's (MFU counts the model's alone).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache

import numpy as np

from scalingnote_jax.config import DecoderShape, TrainConfig
from scalingnote_jax.models.layers.params import flatten, is_matrix
from scalingnote_jax.models.lora import SCALES
from scalingnote_jax.models.pair import Towers
from scalingnote_jax.models.tower import TowerDef


@dataclass(frozen=True)
class Flops:
    """Of all devices together.

    Attributes:
        model: forward and backward.
        again: what is computed a second time to save memory.
    """

    model: int
    again: int

    @property
    def executed(self) -> int:
        """What the chips do."""
        return self.model + self.again

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.model + other.model, self.again + other.again)


def step_flops(cfg: TrainConfig, towers: Towers, trained: Collection[str]) -> Flops:
    """Of one step of stage 1 on the largest buckets.

    Args:
        trained: paths of the trained parameters, "query/body/layers/q".
    """
    size, group = cfg.batch_size, 1 + cfg.negatives_per_query
    lengths = (tower.cfg.text.max_tokens for tower in (towers.query, towers.doc))
    query, doc = zip((size, size * group), lengths, strict=True)
    return _step_flops(cfg, towers, trained, query, doc)


def batch_flops(
    cfg: TrainConfig, towers: Towers, trained: Collection[str]
) -> Callable[[dict[str, np.ndarray], int], int]:
    """The model's FLOPs of a step on a batch as it is, cut to its buckets: a function of one
    process's batch and of how many parts the whole has.
    """

    @cache
    def counted(query: tuple[int, int], doc: tuple[int, int]) -> int:
        return _step_flops(cfg, towers, trained, query, doc).model

    def of_batch(batch: dict[str, np.ndarray], parts: int) -> int:
        (*rows, query_length), (*texts, doc_length) = (
            batch[name].shape for name in ("query_tokens", "doc_tokens")
        )
        query = math.prod(rows) * parts, query_length
        return counted(query, (math.prod(texts) * parts, doc_length))

    return of_batch


def _step_flops(
    cfg: TrainConfig,
    towers: Towers,
    trained: Collection[str],
    query: tuple[int, int],
    doc: tuple[int, int],
) -> Flops:
    """Of so many rows of so many tokens on each side."""
    total = Flops(0, 0)
    for side, tower, (rows, length) in (("query", towers.query, query), ("doc", towers.doc, doc)):
        prefix = "shared/" if towers.cfg.share else f"{side}/"
        paths = {path.removeprefix(prefix) for path in trained if path.startswith(prefix)}
        total += tower_flops(tower, rows, paths, cfg.encode_chunks > 1, length)
    size, group = query[0], 1 + cfg.negatives_per_query
    scores = size * size * (group + cfg.symmetric) // cfg.accumulate
    return total + Flops(3 * 2 * scores * towers.query.dim, 0)


def tower_flops(
    tower: TowerDef,
    rows: int,
    trained: Collection[str] = (),
    in_chunks: bool = False,
    length: int = 0,
) -> Flops:
    """Of `rows` texts, forward; and backward where something is trained.

    Args:
        trained: paths of the trained parameters, "body/layers/q".
        in_chunks: whether GradCache encodes everything once more.
        length: tokens of a text; 0 for the most that it may have.
    """
    length = length or tower.cfg.text.max_tokens
    tokens = rows * length
    shapes, axes = map(flatten, tower.abstract())
    sizes = {
        path: 2 * math.prod(x.shape) * (rows if path == "projection" else tokens)
        for path, x in shapes.items()
        if is_matrix(axes[path]) and "embedding" not in path and f"/{SCALES}/" not in path
    }
    attention = _attention(tower, rows, length)
    forward = sum(sizes.values()) + attention
    if not trained:
        return Flops(forward, 0)
    through_body = any(path.startswith("body/") for path in trained)
    passed = {p: n for p, n in sizes.items() if through_body or p == "projection"}
    back = sum(passed.values()) + 2 * attention * through_body
    back += sum(n for path, n in sizes.items() if path in trained)
    again = _again(tower, sizes, attention) if through_body else 0
    return Flops(forward + back, again + forward * in_chunks)


def _attention(tower: TowerDef, rows: int, length: int) -> int:
    """Scores and the weighted sum of the values."""
    shape = tower.shape
    head_dim = (
        shape.head_dim if isinstance(shape, DecoderShape) else shape.hidden_size // shape.num_heads
    )
    return 2 * 2 * rows * length * length * shape.num_heads * head_dim * shape.num_layers


def _again(tower: TowerDef, sizes: dict[str, int], attention: int) -> int:
    """What remat repeats: with "full" all of a layer but its last product, whose result no gradient
    needs; with the policies that keep the products of weights, attention alone.
    """
    if tower.cfg.remat == "none":
        return 0
    if tower.cfg.remat != "full":
        return attention
    layers = {p: n for p, n in sizes.items() if "/layers/" in p and not p.endswith("/down")}
    return sum(layers.values()) + attention
