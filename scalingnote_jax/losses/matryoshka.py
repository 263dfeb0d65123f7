"""Vectors that can be cut: a loss on their first components as well as on all of them.

Source: Matryoshka Representation Learning (Kusupati et al., arXiv 2205.13147, section 3), with
equal weights. Cut vectors are normalised anew, by the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from scalingnote_jax.errors import bad_input

Loss = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


def matryoshka(loss: Loss, sizes: tuple[int, ...]) -> Loss:
    """`loss` as the mean over the first d components of its vectors, for each d of `sizes`.

    Args:
        loss: (vectors [..., D] before the L2 norm, …) → (loss, sums for logging).
        sizes: rising; the sums are those of the last. () gives `loss` itself.
    """
    if not sizes:
        return loss

    def mean(*vectors: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        results: list[Any] = [loss(*(x[..., :d] for x in vectors)) for d in sizes]
        return sum(total for total, _ in results) / len(sizes), results[-1][1]

    return mean


def check_sizes(field: str, sizes: tuple[int, ...], dim: int) -> None:
    """Refuses sizes that do not rise to D."""
    if sizes and (sorted({d for d in sizes if d > 0}) != list(sizes) or sizes[-1] != dim):
        raise bad_input(field, str(sizes), f"rising lengths, the last {dim} (D)", "change them")
