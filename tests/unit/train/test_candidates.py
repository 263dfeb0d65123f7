"""Frozen document vectors: read by row, the teacher's best, and what of it joins a batch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from scalingnote_jax.config import DistillConfig, MeshConfig, replace
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.errors import UserError
from scalingnote_jax.train import candidates as frozen
from scalingnote_jax.train.candidates import (
    Candidates,
    best_documents,
    check_documents,
    stored_values,
)
from scalingnote_jax.vectors.encoder import unit_rows
from scalingnote_jax.vectors.store import StoreWriter, VectorStore


def store(folder: Path, vectors: np.ndarray, dtype: str = "float32") -> VectorStore:
    """In shards of 7 rows."""
    with StoreWriter(folder, vectors.shape[1], {}, 7, dtype) as writer:
        writer.add([str(i) for i in range(len(vectors))], vectors)
        return writer.close()


def vectors(rows: int, dim: int = 6, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(rows, dim)) + 1
    return unit_rows(drawn.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_rows_by_number_are_those_of_slices(tmp_path: Path, dtype: str) -> None:
    rows = store(tmp_path / "s", vectors(20), dtype).on_disk()
    wanted = np.array([[19, 0, 7], [6, 7, 19]])
    np.testing.assert_array_equal(rows.take(wanted), rows[:][wanted])


def test_values_are_made_once_and_not_used_when_damaged(tmp_path: Path) -> None:
    made: list[int] = []

    def kept(of: str) -> np.ndarray:
        return stored_values(
            tmp_path / "kept", {"of": of}, lambda: np.arange(5) * (made.append(1) or len(made))
        )

    np.testing.assert_array_equal(kept("s"), np.arange(5))
    np.testing.assert_array_equal(kept("s"), np.arange(5))
    assert len(made) == 1
    np.testing.assert_array_equal(kept("t"), np.arange(5) * 2)  # of something else: made anew
    path = tmp_path / "kept" / frozen.FILE
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    np.testing.assert_array_equal(kept("t"), np.arange(5) * 3)  # damaged: made anew


def test_the_teachers_best_are_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = vectors(20)
    documents, queries = store(tmp_path / "d", x), store(tmp_path / "q", 3 * vectors(9, 8, seed=1))
    args = (queries, 8, documents, 4, tmp_path / "best", make_mesh(MeshConfig()))
    found = best_documents(*args)
    scores = queries.vectors()[:8, :6] @ x.T
    np.testing.assert_array_equal(found, np.argsort(-scores, axis=1)[:, :4])
    monkeypatch.setattr(frozen, "exact_search", None)
    np.testing.assert_array_equal(best_documents(*args), found)


def test_what_joins_a_batch_is_a_function_of_seed_and_step(tmp_path: Path) -> None:
    x = vectors(20)
    documents = store(tmp_path / "d", x)
    collection: Any = SimpleNamespace(doc_ids=documents.ids, doc_groups=np.arange(20) // 2)
    best = np.random.default_rng(0).integers(0, 20, (5, 3))
    texts = np.array([4, 0])
    batch = Candidates(documents, collection, best, 8, 3).batch(11, texts)
    np.testing.assert_array_equal(batch["top_emb"], x[best[texts]])
    np.testing.assert_array_equal(batch["top_ids"], best[texts] // 2)
    parts = [Candidates(documents, collection, best, 8, 3, i, 2).batch(11, texts) for i in (0, 1)]
    for name in ("sample_emb", "sample_ids"):
        np.testing.assert_array_equal(batch[name], np.concatenate([p[name] for p in parts]))
    for other in (
        Candidates(documents, collection, best, 8, 4).batch(11, texts),
        Candidates(documents, collection, best, 8, 3).batch(12, texts),
    ):
        assert not np.array_equal(other["sample_emb"], batch["sample_emb"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"top_documents": 41}, "--distill.top_documents: 41; expected 1 to 40"),
        ({"sample_documents": 12}, "a multiple of 8; set it to 16"),
        ({"score_temperature": 0.0}, "--distill.score_temperature"),
    ],
)
def test_candidates_that_there_are_not(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as error:
        check_documents(replace(DistillConfig(), **change), 40, 8)
    assert says in str(error.value)
