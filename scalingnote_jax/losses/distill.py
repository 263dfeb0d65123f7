"""Stage 2's loss: the small query tower meets the teacher's query vectors (paper, section 3.2: MSE
+ cosine similarity).

Query-only: no document, no label and no negative enters. Each score error is bounded by the vector
error, |(s(q) - t(q))·d| ≤ ‖s(q) - t(q)‖·‖d‖, so all scores are fitted at once. That is a bound and
not the error, so further terms (`distill_scores.py`) may look at frozen document vectors; their
weights are 0 unless asked for.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from scalingnote_jax.config import DistillConfig
from scalingnote_jax.losses.distill_scores import (
    candidate_scores,
    margin_error,
    rank_loss,
    real_candidates,
    score_kl,
)
from scalingnote_jax.models.tower import normalise


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


def needs_documents(cfg: DistillConfig) -> bool:
    """Whether a term compares scores of documents, and so reads their frozen vectors."""
    return cfg.w_kl > 0 or cfg.w_margin > 0 or cfg.w_rank > 0


def stage2_loss(
    student_raw: jax.Array,
    teacher_raw: jax.Array,
    *documents: jax.Array,
    cfg: DistillConfig,
    ids: tuple[jax.Array, jax.Array] | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`distill_loss` plus the weighted terms that look at documents, summed over the B queries.

    Vectors that `encode.dim` or a Matryoshka size cuts are cut on both sides to what both have, and
    normalised anew.

    Args:
        student_raw, teacher_raw: as for `distill_loss`.
        documents: where the config `needs_documents`, [B, k, D], the teacher's best documents of
            each query, and [S, D], the sampled ones.
        cfg: the weights; `normalise`; `score_temperature`.
        ids: of those documents, [B, k] and [S].

    Returns:
        Loss and sums for logging; of each term that is on, "kl", "margin_error" or "rank_loss",
        before its weight.
    """
    total, sums = distill_loss(
        student_raw, teacher_raw, w_mse=cfg.w_mse, w_cos=cfg.w_cos, where=cfg.normalise
    )
    terms: dict[str, tuple[float, jax.Array]] = {}
    if documents:
        assert ids is not None
        top, sample = documents
        terms |= _candidate_terms(cfg, student_raw, teacher_raw, top, sample, *ids)
    for name, (weight, values) in terms.items():
        total, sums[name] = total + weight * values.sum(), values.sum()
    return total, sums


def _candidate_terms(
    cfg: DistillConfig,
    student_raw: jax.Array,
    teacher_raw: jax.Array,
    top: jax.Array,
    sample: jax.Array,
    top_ids: jax.Array,
    sample_ids: jax.Array,
) -> dict[str, tuple[float, jax.Array]]:
    """Name → weight and [B], of the terms that are on."""
    student_emb, teacher_emb, top_emb, sample_emb = _units(student_raw, teacher_raw, top, sample)
    student = candidate_scores(student_emb, top_emb, sample_emb)
    teacher = candidate_scores(teacher_emb, top_emb, sample_emb)
    real, heat = real_candidates(top_ids, sample_ids), cfg.score_temperature
    terms: dict[str, tuple[float, jax.Array]] = {}
    if cfg.w_kl > 0:
        terms["kl"] = (cfg.w_kl, score_kl(student, teacher, real, heat))
    if cfg.w_margin > 0:
        terms["margin_error"] = (cfg.w_margin, margin_error(student, teacher, real))
    if cfg.w_rank > 0:
        terms["rank_loss"] = (cfg.w_rank, rank_loss(student, real, top.shape[1], heat))
    return terms


def _units(*vectors: jax.Array) -> list[jax.Array]:
    """Unit vectors of the first components, as many as all of them have."""
    width = min(x.shape[-1] for x in vectors)
    return [normalise(x[..., :width]) for x in vectors]
