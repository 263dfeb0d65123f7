"""What is counted and timed, for Prometheus: requests, tokens, waiting, each stage of an answer."""

from __future__ import annotations

import enum
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

_SECS = (
    0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5,
    1, 2.5, 5, 10,
)  # fmt: skip
_SCORES = tuple(i / 10 for i in range(11))
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)

M = TypeVar("M", Counter, Gauge, Histogram)


class AnswerPart(enum.StrEnum):
    """A part of an answer's time."""

    TOKENS = "tokens"
    QUEUE = "queue"
    TOWER = "tower"
    INDEX = "index"
    TEXTS = "texts"


class Meters:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def named(kind: type[M], name: str, meaning: str, *labels: str, **more: Any) -> M:
            return kind(f"scalingnote_{name}", meaning, labels, registry=registry, **more)

        self.requests = named(Counter, "requests", "Answers", "path", "status")
        meaning = "From a request's head to its answer"
        self.secs = named(Histogram, "request_seconds", meaning, "path", buckets=_SECS)
        meaning = "Of a text in the queue; of a request's tokens; of a batch in the other meters"
        self.stage_secs = named(Histogram, "stage_seconds", meaning, "stage", buckets=_SECS)
        self.batch = named(Histogram, "batch_texts", "Texts in a batch", buckets=_BATCH)
        self.texts = named(Counter, "texts", "Texts and vectors that came in", "side")
        self.tokens = named(Counter, "tokens", "Tokens of texts, without padding", "side")
        self.cut = named(Counter, "truncated_texts", "Texts that were cut", "side")
        self.waiting = named(Gauge, "queue_tokens", "Tokens that wait for a tower", "side")
        self.top_score = named(
            Histogram, "top_score", "Of each query's first document", buckets=_SCORES
        )
        meaning = "Of the exact best 10, found for the newest queries"
        self.canary_recall = named(Gauge, "canary_recall", meaning)
        meaning = "1 - cosine of the mean query of late and the mean of the first ones"
        self.drift = named(Gauge, "query_drift", meaning)
        self.swaps = named(Counter, "swaps", "Exchanges of what is live", "result")
        self.ready = named(Gauge, "ready", "1 once everything is compiled")
        self.documents = named(Gauge, "documents", "Documents in the index")

    @contextmanager
    def time(self, stage: AnswerPart) -> Iterator[None]:
        """Times a stage."""
        started = time.perf_counter()
        yield
        self.stage_secs.labels(stage).observe(time.perf_counter() - started)

    def page(self) -> tuple[bytes, str]:
        """What Prometheus reads, and its content type."""
        return openmetrics(self.registry), CONTENT_TYPE_LATEST
