"""The paper's "title-specific query prediction": a further term of stage 1 that makes the document
tower predict the query. The index is as without: one vector for each document.

Of the paper only the name is known. Two readings, both ours in detail:
- contrastive: the title has a vector of its own, that of the document's prompt up to the text, and
  stage 1's loss is taken of those vectors too. Causal attention makes them free: the states are
  there. A document without a title takes part with its own vector.
- generative, after NoteLLM (arXiv 2403.01744): the query's words are the continuation of the
  document. Ours: of its vector, not of its text. The projection leads back by its transpose and the
  embedding table is the head, so that there is no weight that encoding has not. A model whose head
  is another one is refused: with the table in its place it would be no language model.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import Sharding

from scalingnote_jax.config import DecoderShape, TowerConfig, TrainConfig
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.chunks import in_chunks
from scalingnote_jax.models.tower import TowerDef
from scalingnote_jax.models.weights.pretrained import open_weights


def generative_loss(
    tower: TowerDef,
    params: dict[str, Any],
    doc_raw: jax.Array,
    query_tokens: jax.Array,
    query_mask: jax.Array,
    rows: Sharding | None,
    *,
    chunks: int,
    keys: jax.Array | None = None,
) -> jax.Array:
    """Minus the log-probability of each query after the vector of its document, mean over the
    query's tokens and summed over the B queries.

    Args:
        tower, params: the document side's.
        doc_raw: [B, D], before the L2 norm, of the positive documents.
        query_tokens, query_mask: [B, L], in the document tower's tokens.
        rows, chunks, keys: as for `encode_in_chunks`.
    """

    def likelihood(params: dict[str, Any], texts: tuple[Any, ...]) -> jax.Array:
        vectors, tokens, mask, keys = texts
        return tower.log_likelihood(params, vectors, tokens, mask, rows, keys)

    texts = (doc_raw, query_tokens, query_mask, keys)
    return -in_chunks(likelihood, params, texts, rows, chunks=chunks).sum()


def check_title_prediction(cfg: TrainConfig, doc_tower: TowerDef) -> None:
    """Refuses a term that the document tower cannot have."""
    how, field = cfg.title_prediction, "--train.title_prediction"
    if how == "none":
        return
    if not isinstance(doc_tower.shape, DecoderShape) or doc_tower.cfg.bidirectional:
        given = f"{how!r}, with a document tower whose tokens see those after them"
        raise bad_input(field, given, "a causal decoder", "choose another tower, or 'none'")
    if not doc_tower.shape.num_layers:
        raise bad_input(field, f"{how!r}, with a tower without layers", "some", "or 'none'")


def check_own_head(cfg: TrainConfig, doc: TowerConfig) -> None:
    """Refuses a generative term with weights whose language model head is more than the embedding
    table; reads their headers.
    """
    if cfg.title_prediction != "generative" or doc.weights == "random":
        return
    if own := open_weights(doc.weights, doc.bidirectional).own_head:
        raise bad_input(
            "--train.title_prediction",
            f"'generative', with {doc.weights}, whose head is its own: {own}",
            "a model whose head is its embedding table (tie_word_embeddings)",
            "choose such a document tower, or 'contrastive'",
        )


def check_vocabularies(cfg: TrainConfig, query_tokenizer: str, doc_tokenizer: str) -> None:
    """Refuses a generative term where a query's tokens are not the document tower's.

    Args:
        query_tokenizer, doc_tokenizer: fingerprints.
    """
    if cfg.title_prediction == "generative" and query_tokenizer != doc_tokenizer:
        raise bad_input(
            "--train.title_prediction",
            "'generative', with two tokenizers",
            "one for both towers: the document tower reads the query's tokens",
            "set --teacher.query.tokenizer and --teacher.doc.tokenizer alike, or choose another",
        )
