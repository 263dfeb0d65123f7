"""Stage 2's terms that look at document vectors: the student's error as a ranking sees it.

The documents are frozen: their vectors are data, as the teacher's query vectors are, and nothing
here has a gradient but the student's query vectors. The candidates of a query are the teacher's k
best documents for it, best first, and then S sampled ones that all queries of the batch share; a
sampled one that is among the k best, or was sampled twice, counts once. All terms are plain
functions of global arrays, float32, one number for each query. Not for which of them are on: see
`distill.py`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from scalingnote_jax.losses.contrastive import NEG_INF, PRECISION, known_positive
from scalingnote_jax.losses.spread import first_rows


def candidate_scores(query_emb: jax.Array, top_emb: jax.Array, sample_emb: jax.Array) -> jax.Array:
    """Cosines of each query with its candidates.

    Args:
        query_emb: [B, D] float32, unit vectors.
        top_emb: [B, k, D], the teacher's best documents of each query.
        sample_emb: [S, D], the sampled documents.

    Returns:
        [B, k + S] float32.
    """
    top = jnp.einsum("bd,bkd->bk", query_emb, top_emb, precision=PRECISION)
    sample = jnp.einsum("bd,sd->bs", query_emb, sample_emb, precision=PRECISION)
    return jnp.concatenate([top, sample], axis=1)


def real_candidates(top_ids: jax.Array, sample_ids: jax.Array) -> jax.Array:
    """Which candidates count: all of the best, and the sampled ones that no earlier one equals.

    Args:
        top_ids: [B, k] int32, equal for documents of equal text.
        sample_ids: [S] int32, likewise.

    Returns:
        [B, k + S] bool.
    """
    sample = (first_rows(sample_ids) > 0) & ~known_positive(top_ids, sample_ids)
    return jnp.concatenate([jnp.ones(top_ids.shape, bool), sample], axis=1)


def log_choice(scores: jax.Array, real: jax.Array, temperature: float) -> jax.Array:
    """Log-probability of each candidate under a softmax at this temperature, for teacher and
    student alike: [B, C] scores, [B, C] bool → [B, C].
    """
    return jax.nn.log_softmax(jnp.where(real, scores / temperature, NEG_INF), axis=-1)


def score_kl(
    student: jax.Array, teacher: jax.Array, real: jax.Array, temperature: float
) -> jax.Array:
    """T² · KL(teacher ‖ student) of the two softmaxes over the candidates' scores.

    Source: Hinton et al. 2015 (arXiv 1503.02531, section 2), whose factor T² keeps the size of the
    gradient where T changes. For small errors e of the scores it is half their variance over the
    candidates, each weighed by the teacher's softmax.

    Args:
        student, teacher: [B, C] float32 scores.
        real: [B, C] bool, the candidates that count.

    Returns:
        [B].
    """
    log_t, log_s = (log_choice(x, real, temperature) for x in (teacher, student))
    terms = jnp.where(real, jnp.exp(log_t) * (log_t - log_s), 0.0)
    return temperature**2 * terms.sum(-1)


def margin_error(student: jax.Array, teacher: jax.Array, real: jax.Array) -> jax.Array:
    """Mean squared error of the differences between the teacher's best document's score and the
    others'.

    Source: margin-MSE, Hofstätter et al. (arXiv 2010.02666, section 3.2). Ours: in place of the
    judged positive stands the teacher's best document, as stage 2 knows no judgements.

    Args, returns: as `score_kl`; candidate 0 is the teacher's best.
    """
    error = student - teacher
    squares = jnp.where(real, jnp.square(error[:, :1] - error), 0.0)[:, 1:].sum(-1)
    return squares / jnp.maximum(real[:, 1:].sum(-1), 1)


def rank_loss(student: jax.Array, real: jax.Array, top: int, temperature: float) -> jax.Array:
    """Minus the log-likelihood of the teacher's first `top` candidates in the teacher's order,
    under a Plackett-Luce model of the student's scores / T; mean over the places.

    Place after place the document that the teacher has there must win against those behind it and
    all sampled ones. Source: ListMLE (Xia et al., ICML 2008, "Listwise approach to learning to
    rank") in its top-k form (Xia et al., NIPS 2009, "Statistical consistency of top-k ranking").

    Args, returns: as `score_kl`; the first `top` candidates are the teacher's best, best first.
    """
    logits = jnp.where(real, student / temperature, NEG_INF)
    rest = jax.nn.logsumexp(logits[:, top:], axis=-1, keepdims=True)
    from_here = jnp.concatenate([logits[:, :top], rest], axis=1)
    rivals = jax.lax.cumlogsumexp(from_here, axis=1, reverse=True)[:, :top]
    return (rivals - logits[:, :top]).mean(-1)
