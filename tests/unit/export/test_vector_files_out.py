"""Document vectors as other engines load them: the same rows, and they come back in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from scalingnote_jax.brought.vector_files import open_vectors
from scalingnote_jax.cli import main
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.vectors.store import VectorStore


@pytest.mark.parametrize(("kind", "name"), [("parquet", ""), ("faiss", "vectors.faiss")])
def test_they_come_back_in(finished: Path, tmp_path: Path, kind: str, name: str) -> None:
    assert main(["export", str(finished), str(tmp_path / "out"), f"--format={kind}"]) == 0
    found = open_vectors(str(tmp_path / "out" / name), "--encode.vectors")
    store = VectorStore.open(finished / "embeddings" / "teacher-doc")
    assert found.ids == store.ids
    np.testing.assert_array_equal(np.concatenate(list(found.blocks())), store.vectors())


def test_what_vertex_reads(finished: Path, tmp_path: Path) -> None:
    assert main(["export", str(finished), str(tmp_path / "out"), "--format=vertex"]) == 0
    lines = (tmp_path / "out" / "part-00000.json").read_text().splitlines()
    store = VectorStore.open(finished / "embeddings" / "teacher-doc")
    first = json.loads(lines[0])
    assert len(lines) == len(store) == 40
    assert first["id"] == store.ids[0]
    assert first["embedding"] == store.vectors()[0].tolist()
    title = Collection.open(finished / "data").documents[0].title
    assert first["embedding_metadata"] == {"title": title}


def test_titles_and_what_is_there_already(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(finished), str(tmp_path / "out"), "--format=parquet"]
    assert main(words) == 0
    table = pq.read_table(tmp_path / "out" / "part-00000.parquet")
    assert table.column_names == ["id", "vector", "title"]
    assert table["title"][0].as_py() == Collection.open(finished / "data").documents[0].title
    assert main(words) == 2
    assert "is there already; expected a new folder, or an export; add --overwrite" in (
        capsys.readouterr().err
    )
    assert main([*words, "--overwrite"]) == 0
    (tmp_path / "other").mkdir()
    assert main([*words[:2], str(tmp_path / "other"), words[-1], "--overwrite"]) == 2
