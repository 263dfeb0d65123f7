"""Stage 1's loss, in its plain global-view form: the reference that every faster version must
equal.

Source: paper, section 3.1 (contrastive learning with in-batch negatives across devices and hard
negatives). What counts as a negative is decided by ids (and, if asked for, by cosines), never by
where a row lies in the batch or on which device; there is no world-size factor anywhere, because
under `jax.jit` the arrays are global. The same loss without its B × N scores: `blockwise.py`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from scalingnote_jax.losses.spread import spread_by_pairs

NEG_INF = -1e30  # finite: a query whose every negative is masked must not turn into NaN
# Of products of vectors: a TPU's default rounds them to bfloat16, which scale 100 makes visible
PRECISION = "highest"


def known_positive(positive_ids: jax.Array, doc_ids: jax.Array) -> jax.Array:
    """Which documents are known to be relevant for which query.

    Args:
        positive_ids: [B, P] int32, all relevant documents of each query, padded with -1.
        doc_ids: [N] int32 document ids; documents of equal text have equal ids.

    Returns:
        [B, N] bool.
    """
    return (positive_ids[:, None, :] == doc_ids[None, :, None]).any(-1)  # XLA never forms [B, N, P]


def contrastive_loss(
    query_emb: jax.Array,
    doc_emb: jax.Array,
    *,
    query_ids: jax.Array,
    doc_ids: jax.Array,
    positive_ids: jax.Array,
    scale: jax.Array | float,
    symmetric: bool,
    false_negative_margin: float | None = None,
    w_spread: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """InfoNCE of B queries against all N = B·G documents of the global batch.

    Per query: -log( e^{s·q·d⁺} / (e^{s·q·d⁺} + Σ_{negatives} e^{s·q·d}) ); a document is a negative
    unless its id is among the query's positives. With `symmetric`, the mean with the same term from
    each positive document over all queries, where a query is a negative unless the document is
    among its positives or its text is the same.

    Args:
        query_emb: [B, D] float32, unit vectors.
        doc_emb: [B, G, D] float32, unit vectors; document 0 of each group is that query's positive.
        query_ids: [B] int32; queries of equal text have equal ids.
        doc_ids: [B, G] int32.
        positive_ids: [B, P] int32, padded with -1; contains `doc_ids[:, 0]`.
        scale: 1 / temperature.
        symmetric: whether to add the document → query direction.
        false_negative_margin: with a number, what scores a cosine above the positive's plus this is
            no negative either, in both directions (Qwen3-Embedding, arXiv 2506.05176, section 3.1,
            with 0.1). The choice has no gradient.
        w_spread: weight of the spread-out term (`spread.py`), queries' plus positive documents'.

    Returns:
        Loss summed over the B queries (divide by B for the mean), and per-batch sums for logging:
        "correct" (queries that score their positive above all negatives) and "negatives" (negatives
        seen by all queries).
    """
    batch, group, dim = doc_emb.shape
    flat_docs, flat_ids = doc_emb.reshape(batch * group, dim), doc_ids.reshape(-1)
    positive = jnp.einsum("bd,bd->b", query_emb, doc_emb[:, 0], precision=PRECISION)  # [B] cosines
    cosines = jnp.einsum("bd,nd->bn", query_emb, flat_docs, precision=PRECISION)  # [B, N]
    negatives = ~known_positive(positive_ids, flat_ids)  # [B, N]
    negatives &= not_above(cosines, positive[:, None], false_negative_margin)
    losses, best = _softmax_loss(scale * positive, scale * cosines, negatives)
    if symmetric:
        # [B documents, B queries]
        back = jnp.einsum("cd,bd->cb", doc_emb[:, 0], query_emb, precision=PRECISION)
        same_query = query_ids[:, None] == query_ids[None, :]
        wrong = ~(known_positive(positive_ids, doc_ids[:, 0]).T | same_query)
        wrong &= not_above(back, positive[:, None], false_negative_margin)
        back_losses, _ = _softmax_loss(scale * positive, scale * back, wrong)
        losses = 0.5 * (losses + back_losses)
    total = losses.sum()
    if w_spread:
        spread = spread_by_pairs(query_emb, query_ids)
        spread += spread_by_pairs(doc_emb[:, 0], doc_ids[:, 0])
        total += batch * w_spread * spread
    counts = {
        "correct": (scale * positive > best).sum().astype(jnp.float32),
        # Not one integer sum: B·N passes 2³¹ at 46,341 queries
        "negatives": negatives.sum(-1).astype(jnp.float32).sum(),
    }
    return total, counts


def not_above(cosines: jax.Array, positive: jax.Array, margin: float | None) -> jax.Array | bool:
    """Whether a cosine is within `margin` above the positive's (they broadcast)."""
    return True if margin is None else cosines <= positive + margin


def _softmax_loss(
    positive: jax.Array, scores: jax.Array, negatives: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """-log softmax of `positive` [B] against the `negatives` among `scores` [B, N]; and the best
    negative's score [B].
    """
    masked = jnp.where(negatives, scores, NEG_INF)
    return jnp.logaddexp(positive, jax.nn.logsumexp(masked, axis=-1)) - positive, masked.max(-1)
