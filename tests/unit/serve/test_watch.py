"""What is measured of live queries, on an index whose recall is known."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")

from scalingnote_jax.retrieval.engines.exact_index import ExactIndex
from scalingnote_jax.serve.meters import Meters
from scalingnote_jax.serve.upkeep.watch import KEPT, QueryWatch, canary_recall


def unit(n: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, 8)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Half(ExactIndex):
    """Finds the best five of ten, and five wrong ones."""

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores, rows = super().search(queries, len(self))
        return scores[:, :k], np.concatenate([rows[:, : k // 2], rows[:, -(k // 2) :]], axis=1)


def live(kind: type[ExactIndex]) -> Any:
    vectors = unit(50, 0)
    return SimpleNamespace(
        size=50, vectors=vectors, searcher=SimpleNamespace(index=kind({}, vectors))
    )


def value(meters: Meters, name: str) -> float | None:
    return meters.registry.get_sample_value(f"scalingnote_{name}")


def test_canary_recall_is_that_of_the_index() -> None:
    assert canary_recall(live(ExactIndex), unit(20, 1)) == 1
    assert canary_recall(live(Half), unit(20, 1)) == 0.5


def test_drift_is_zero_for_the_same_queries_and_grows_with_others() -> None:
    meters = Meters()
    watch = QueryWatch(meters)
    watch.measure(live(Half))  # nothing was asked yet
    assert value(meters, "canary_recall") == 0
    east, north = np.eye(8, dtype=np.float32)[:2]
    watch.saw(["a"] * KEPT, np.tile(east, (KEPT, 1)), [0.9] * KEPT)
    watch.measure(live(Half))
    assert value(meters, "canary_recall") == 0.5
    assert value(meters, "query_drift") == pytest.approx(0, abs=1e-6)
    assert value(meters, "top_score_count") == KEPT
    watch.saw(["b"] * KEPT, np.tile(north, (KEPT, 1)), [0.1])
    watch.measure(live(ExactIndex))
    assert value(meters, "query_drift") == pytest.approx(1, abs=1e-6)
    assert watch.texts() == ["b"] * 32
    watch.forget()
    watch.saw([], north[None], [])
    watch.measure(live(ExactIndex))
    assert value(meters, "query_drift") == pytest.approx(1, abs=1e-6)  # too few to say anew


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    text = (Path(__file__).parents[3] / "docs" / "serve" / "dashboard.json").read_text()
    page = Meters().page()[0].decode()
    asked = set(re.findall(r"scalingnote_(\w+?)(?:_bucket|_sum|_count|_total)?\b", text))
    there = set(re.findall(r"^# TYPE scalingnote_(\w+) ", page, re.M))
    assert len(json.loads(text)["panels"]) == 9
    assert asked - {"serve"} <= there
