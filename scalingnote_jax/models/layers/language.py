"""A tower's decoder as the language model that it was: how likely is a text after a vector?

The vector stands where the first token would, and the embedding table is the head too, as in models
that tie the two. Not for generating text.

Shapes: B rows, L tokens, E hidden, V vocabulary.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from scalingnote_jax.models.decoder import Decoder


def log_likelihood(
    body: Decoder,
    start: Array,
    tokens: Array,
    mask: Array,
    rows: Sharding | None = None,
    keys: Array | None = None,
) -> Array:
    """Log-probability of each text, mean over its tokens.

    Args:
        body: causal.
        start: [B, E], what each text follows.
        tokens: [B, L] int32, padded on the right.
        mask: [B, L] bool, True for a real token; one that has none gives 0.
        rows: on a mesh, where the rows lie.
        keys: [B], a key for each row's dropout, in training; None for none.

    Returns:
        [B] float32.
    """
    words = body.embedding(tokens, rows)  # [B, L, E]
    inputs = jnp.concatenate([start[:, None], words[:, :-1]], axis=1)
    hidden = body.states(inputs, mask, rows, keys)
    dtype, table = body.layers.dtype, body.embedding.table[...]
    logits = jnp.einsum(
        "ble,ve->blv", hidden.astype(dtype), table.astype(dtype), preferred_element_type=jnp.float32
    )
    if isinstance(rows, NamedSharding):  # V stays split as the table is
        spec = PartitionSpec(*rows.spec, None, "tensor")
        logits = jax.lax.with_sharding_constraint(logits, NamedSharding(rows.mesh, spec))
    # The token's own logit by its row of the table: picked from the logits, those would be gathered
    targets = (words / body.embedding.scale).astype(dtype)
    chosen = jnp.einsum(
        "ble,ble->bl", hidden.astype(dtype), targets, preferred_element_type=jnp.float32
    )
    log_probs = jnp.where(mask, chosen - jax.nn.logsumexp(logits, axis=-1), 0.0)
    return log_probs.sum(-1) / jnp.maximum(mask.sum(-1), 1)
