"""Answers as JSON, in the shapes that clients of Text Embeddings Inference and of OpenAI read."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from scalingnote_jax.retrieval.searcher import Hit
from scalingnote_jax.serve.asked import MODES
from scalingnote_jax.serve.live import Live
from scalingnote_jax.serve.server_limits import Limits
from scalingnote_jax.version import __version__


def embeddings(vectors: Sequence[np.ndarray]) -> list[list[float]]:
    """As `/embed` of Text Embeddings Inference answers: one list of numbers for each text."""
    return [vector.tolist() for vector in vectors]


def openai_embeddings(
    vectors: Sequence[np.ndarray], model: str, tokens: int, as_base64: bool
) -> dict[str, Any]:
    """As `/v1/embeddings` of OpenAI answers; base64 is of little-endian float32."""

    def written(vector: np.ndarray) -> Any:
        if not as_base64:
            return vector.tolist()
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()

    data = [
        {"object": "embedding", "index": i, "embedding": written(vector)}
        for i, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def search_results(found: Sequence[Sequence[Hit]], with_texts: bool) -> dict[str, Any]:
    """For each query its hits, best first."""

    def written(hit: Hit) -> dict[str, Any]:
        short = {"id": hit.id, "score": hit.score}
        return short | {"title": hit.title, "text": hit.text} if with_texts else short

    return {"results": [{"hits": [written(hit) for hit in hits]} for hits in found]}


def models(live: Live) -> dict[str, Any]:
    """As `/v1/models` of OpenAI answers."""
    names = [f"{live.name}-{side}" for side in live.towers]
    listed = [{"id": n, "object": "model", "created": 0, "owned_by": "local"} for n in names]
    return {"object": "list", "data": listed}


def info(live: Live, limits: Limits) -> dict[str, Any]:
    """As `/info` of Text Embeddings Inference answers, and what is live beside that."""
    query = live.towers["query"]
    return {
        "model_id": live.name,
        "model_sha": live.searcher.model.identity,
        "model_dtype": "int8" if live.searcher.model.shipped.endswith("int8") else "float32",
        "model_type": {"embedding": {"pooling": query.pooling}},
        "max_concurrent_requests": limits.queue_tokens,
        "max_input_length": query.max_tokens,
        "max_batch_tokens": query.batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": limits.inputs,
        "auto_truncate": True,
        "tokenization_workers": 1,
        "version": __version__,
        "sha": None,
        "docker_label": None,
        "towers": {
            side: {"dimensions": tower.dim, "max_tokens": tower.max_tokens}
            for side, tower in live.towers.items()
        },
        "documents": live.size,
        "index": live.searcher.index.kind,
        "modes": list(MODES) if live.has_words else ["dense"],
        "teacher": live.searcher.teacher,
        "max_k": min(limits.k, live.size),
        "max_text_characters": limits.text_chars,
        "max_body_bytes": limits.body_bytes,
    }
