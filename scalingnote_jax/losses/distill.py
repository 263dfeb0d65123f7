"""Stage 2's loss: the small query tower meets the teacher's query vectors (paper, section 3.2: MSE
+ cosine similarity).

Query-only: no document, no label and no negative enters. Each score error is bounded by the vector
error, |(s(q) - t(q))·d| ≤ ‖s(q) - t(q)‖·‖d‖, so all scores are fitted at once.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from scalingnote_jax.models.towers import normalise


def distill_loss(
    student_raw: jax.Array,
    teacher_raw: jax.Array,
    *,
    w_mse: float,
    w_cos: float,
    where: Literal["pre", "post"],
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """w_mse · ‖s - t‖² + w_cos · (1 - cos(s, t)), summed over the B queries.

    The squared error is summed over D, not averaged: averaged, it would fade as 1 / D beside the
    cosine term. On unit vectors ("post") it equals 2·(1 - cos), so there the two weights add up to
    one; it says something of its own only on raw vectors ("pre"), where it also fits the norm.

    Args:
        student_raw: [B, D] float32, after the projection, before the L2 norm.
        teacher_raw: [B, D] float32, likewise.
        w_mse: weight of the squared error.
        w_cos: weight of the cosine term.
        where: "pre": squared error on raw vectors; "post": on unit vectors.

    Returns:
        Loss summed over B, and sums for logging: "cosine" and "squared_error" (as used).
    """
    student_emb, teacher_emb = normalise(student_raw), normalise(teacher_raw)
    cosine = jnp.einsum("bd,bd->b", student_emb, teacher_emb)
    error = student_raw - teacher_raw if where == "pre" else student_emb - teacher_emb
    squared_error = jnp.square(error).sum(-1)
    loss = w_mse * squared_error + w_cos * (1.0 - cosine)
    return loss.sum(), {"cosine": cosine.sum(), "squared_error": squared_error.sum()}
