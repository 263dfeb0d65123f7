"""The contrastive loss with no B × N scores: equal to `contrastive.py` in value and gradient, in
memory that grows as B / devices.

Each device keeps its own queries and walks over all documents of the batch in tiles, to which every
device gives a part. One tile of scores serves both directions: its rows add to the queries'
log-sum-exp, its columns are its documents' (over this device's queries; the devices' shares meet at
the end). The backward pass makes each tile again and turns it into softmax weights. The same idea:
FlashAttention (arXiv 2205.14135) and, for contrastive losses, Inf-CL (arXiv 2410.17243). Ours: both
directions from one tile, and masks by ids and cosines.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from scalingnote_jax.losses.contrastive import NEG_INF, PRECISION, known_positive, not_above
from scalingnote_jax.losses.peers import Peers
from scalingnote_jax.losses.spread import spread_by_moments

# Dimension letters here: b queries of this device, t document groups of this device in a tile, T
# those of all devices, S tiles.


class RowIds(NamedTuple):
    """query [B], doc [B, G], positive [B, P], as in `contrastive_loss`."""

    query: jax.Array
    doc: jax.Array
    positive: jax.Array


@dataclass(frozen=True)
class Plan:
    """What is fixed when the loss is compiled."""

    symmetric: bool
    margin: float | None
    tile: int
    peers: Peers


class Tiles(NamedTuple):
    """All documents, tile by tile; those at place 0 of their groups, the positives, come first in
    a tile.
    """

    docs: jax.Array  # [S, t, G, D]: this device's part
    doc_ids: jax.Array  # [S, G·T]
    query_ids: jax.Array  # [S, T], of the queries whose positives they are
    positive: jax.Array  # [S, T], cosine of those two
    real: jax.Array  # [S, T], False where the last tile is filled up


def blockwise_loss(
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
    tile: int = 2048,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`contrastive_loss`, a tile of scores at a time.

    Args:
        query_emb, doc_emb, query_ids, doc_ids, positive_ids, scale, symmetric,
            false_negative_margin, w_spread: as `contrastive_loss`; global arrays.
        tile: documents, of all devices together, whose scores are held at a time (at least one
            group of each device). Need not divide N.
        mesh: its devices share the work, each with an equal part of the rows: B is a multiple of
            its batch shards. None: one device.

    Returns:
        As `contrastive_loss`.
    """
    batch = query_emb.shape[0]
    plan = Plan(symmetric, false_negative_margin, tile, Peers.of(mesh, batch))
    ids = RowIds(query_ids, doc_ids, positive_ids)
    total, counts = _softmax_loss(plan, query_emb, doc_emb, jnp.float32(scale), ids)
    if w_spread:
        spread = spread_by_moments(query_emb, query_ids)
        spread += spread_by_moments(doc_emb[:, 0], doc_ids[:, 0])
        total += batch * w_spread * spread
    return total, counts


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _softmax_loss(
    plan: Plan, query_emb: jax.Array, doc_emb: jax.Array, scale: jax.Array, ids: RowIds
) -> Any:
    """(loss, counts), with the gradient below."""
    return _softmax_loss_fwd(plan, query_emb, doc_emb, scale, ids)[0]


def _softmax_loss_fwd(
    plan: Plan, query_emb: jax.Array, doc_emb: jax.Array, scale: jax.Array, ids: RowIds
) -> Any:
    forward = plan.peers.share_rows(partial(_forward, plan), "rr-r", "-rr")
    sums, *norms = forward(query_emb, doc_emb, scale, ids)
    return sums, (query_emb, doc_emb, scale, ids, *norms)


def _softmax_loss_bwd(plan: Plan, saved: Any, cotangent: Any) -> Any:
    backward = plan.peers.share_rows(partial(_backward, plan), "rr-rrr", "rr-")
    factor = cotangent[0] * (0.5 if plan.symmetric else 1.0)
    d_query, d_doc, d_scale = backward(*saved)
    scale = saved[2]
    return factor * scale * d_query, factor * scale * d_doc, factor * d_scale, None


_softmax_loss.defvjp(_softmax_loss_fwd, _softmax_loss_bwd)


def _forward(
    plan: Plan, query_emb: jax.Array, doc_emb: jax.Array, scale: jax.Array, ids: RowIds
) -> Any:
    """On one device's rows: (loss, counts) of all devices; the log of the softmax's denominator [b]
    of each query, and of each positive document as it looks back.
    """
    size = query_emb.shape[0]
    positive = _cosine(query_emb, doc_emb[:, 0])
    tiles = _tiles(plan, doc_emb, ids, positive)

    def step(state: Any, tile: Tiles) -> Any:
        best, total, negatives = state
        _, scores, back = _scores(plan, query_emb, ids, positive, scale, tile)
        best_now = jnp.maximum(best, scores.max(1))
        total *= jnp.exp(best - best_now)
        total += jnp.exp(scores - best_now[:, None]).sum(1)
        negatives += (scores > NEG_INF).sum(1)
        column = jax.nn.logsumexp(back, axis=0) if plan.symmetric else None
        return (best_now, total, negatives), column

    start = (jnp.full(size, NEG_INF), jnp.zeros(size), jnp.zeros(size, jnp.int32))
    (best, total, negatives), columns = lax.scan(step, start, tiles)
    positive *= scale
    norm = jnp.logaddexp(positive, best + jnp.log(total))
    losses, back_norm = norm - positive, norm
    if plan.symmetric:
        shares = plan.peers.exchange(columns, axis=1).reshape(len(columns), plan.peers.count, -1)
        back_norm = jax.nn.logsumexp(shares, axis=1).reshape(-1)[:size]
        back_norm = jnp.logaddexp(positive, back_norm)
        losses = 0.5 * (losses + back_norm - positive)
    counts = {
        "correct": (positive > best).astype(jnp.float32).sum(),
        "negatives": negatives.astype(jnp.float32).sum(),
    }
    return plan.peers.sum((losses.sum(), counts)), norm, back_norm


def _backward(
    plan: Plan,
    query_emb: jax.Array,
    doc_emb: jax.Array,
    scale: jax.Array,
    ids: RowIds,
    norm: jax.Array,
    back_norm: jax.Array,
) -> Any:
    """On one device's rows: Σ w·d [b, D], Σ w·q [b, G, D] and Σ w·(q·d) [], where w is a score's
    part in the loss's gradient (twice it, with two directions).
    """
    positive = _cosine(query_emb, doc_emb[:, 0])
    tiles = _tiles(plan, doc_emb, ids, positive)
    back_norms = plan.peers.gather(_cut(back_norm, tiles.docs.shape[1]), axis=1)  # [S, T]
    group, dim = doc_emb.shape[1:]

    def step(d_query: jax.Array, inputs: Any) -> Any:
        tile, back_norm = inputs
        docs, scores, back = _scores(plan, query_emb, ids, positive, scale, tile)
        weights = jnp.exp(scores - norm[:, None])  # [b, G·T]
        if plan.symmetric:
            weights += _only_first(jnp.exp(back - back_norm), group, axis=1)
        d_query += jnp.einsum("bn,nd->bd", weights, docs, precision=PRECISION)
        d_docs = jnp.einsum("bn,bd->nd", weights, query_emb, precision=PRECISION)
        d_docs = plan.peers.scatter_sum(d_docs.reshape(group, -1, dim), axis=1)  # [G, t, D]
        return d_query, d_docs.swapaxes(0, 1)

    d_query, d_docs = lax.scan(step, jnp.zeros_like(query_emb), (tiles, back_norms))
    d_doc = d_docs.reshape(-1, group, dim)[: len(doc_emb)]
    own = jnp.expm1(scale * positive - norm)  # the positive's softmax, less one
    if plan.symmetric:
        own += jnp.expm1(scale * positive - back_norm)
    d_query += own[:, None] * doc_emb[:, 0]
    d_doc += _only_first((own[:, None] * query_emb)[:, None], group, axis=1)
    # Scores are s·(q·d), so s·∂/∂s is q·∂/∂q: no sum over tiles is needed
    return d_query, d_doc, plan.peers.sum(_cosine(query_emb, d_query).sum())


def _tiles(plan: Plan, doc_emb: jax.Array, ids: RowIds, positive: jax.Array) -> Tiles:
    """This device's documents cut into parts of tiles, and what all must know of all of them."""
    size, group, _ = doc_emb.shape
    part = min(size, max(1, plan.tile // (plan.peers.count * group)))
    doc_ids = plan.peers.gather(_cut(ids.doc, part).swapaxes(1, 2), axis=2)  # [S, G, T]
    real = _cut(jnp.ones(size, bool), part)
    return Tiles(
        docs=_cut(doc_emb, part),
        doc_ids=doc_ids.reshape(len(doc_ids), -1),
        query_ids=plan.peers.gather(_cut(ids.query, part), axis=1),
        positive=plan.peers.gather(_cut(positive, part), axis=1),
        real=plan.peers.gather(real, axis=1),
    )


def _scores(
    plan: Plan,
    query_emb: jax.Array,
    ids: RowIds,
    positive: jax.Array,
    scale: jax.Array,
    tile: Tiles,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One tile: its documents [G·T, D]; scores [b, G·T], `NEG_INF` where the document is no
    negative of the query; scores [b, T], where the query is none of the positive document.
    """
    docs = plan.peers.gather(tile.docs.swapaxes(0, 1), axis=1)  # [G, T, D]
    group, width, dim = docs.shape
    docs = docs.reshape(-1, dim)
    cosines = jnp.einsum("bd,nd->bn", query_emb, docs, precision=PRECISION)
    relevant = known_positive(ids.positive, tile.doc_ids)
    negatives = ~relevant & jnp.tile(tile.real, group)
    negatives &= not_above(cosines, positive[:, None], plan.margin)
    scores = jnp.where(negatives, scale * cosines, NEG_INF)
    wrong = ~relevant[:, :width] & tile.real & (ids.query[:, None] != tile.query_ids)
    wrong &= not_above(cosines[:, :width], tile.positive, plan.margin)
    return docs, scores, jnp.where(wrong, scale * cosines[:, :width], NEG_INF)


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum("bd,bd->b", a, b, precision=PRECISION)


def _cut(x: jax.Array, part: int) -> jax.Array:
    """[b, …] → [S, t, …], the last part filled up with zeros."""
    missing = -len(x) % part
    return jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)).reshape(-1, part, *x.shape[1:])


def _only_first(x: jax.Array, group: int, axis: int) -> jax.Array:
    """What concerns the positives, to be added to all documents: zeros for the other places."""
    pads = [(0, 0)] * x.ndim
    pads[axis] = (0, (group - 1) * x.shape[axis])
    return jnp.pad(x, pads)
