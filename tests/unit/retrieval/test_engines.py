"""Indexes of other engines than ScaNN: the same rows as exact search, the same searcher, evaluation
and refusals.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import scalingnote_jax
from scalingnote_jax.cli import main
from scalingnote_jax.config import ExactConfig, IndexConfig, MeshConfig
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.errors import UserError
from scalingnote_jax.retrieval.engines.opening import build_other, open_index
from scalingnote_jax.retrieval.exact import exact_search
from scalingnote_jax.vectors.store import StoreWriter, VectorStore

ENGINES = ("exact", "milvus")


def needs(engine: str) -> None:
    if engine == "milvus":
        pytest.importorskip("pymilvus")
        pytest.importorskip("milvus_lite")


def unit(n: int, dim: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def stored(folder: Path, rows: np.ndarray) -> VectorStore:
    with StoreWriter(folder, rows.shape[1], {"contract": {}}, shard_rows=150) as writer:
        writer.add([f"d{i}" for i in range(len(rows))], rows)
        return writer.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_it_finds_what_exact_search_finds(engine: str, tmp_path: Path) -> None:
    needs(engine)
    rows = unit(400, 16)
    rows[7] = rows[3]  # equal scores: in order of row
    store, queries = stored(tmp_path / "store", rows), np.concatenate([unit(70, 16, 1), rows[3:4]])
    build_other(store, IndexConfig(engine=engine), tmp_path / "index")
    index = open_index(tmp_path / "index", store)
    assert (index.engine, len(index)) == (engine, 400)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    for k in (1, 10, 400):
        wanted, wanted_rows = exact_search(queries, store.on_disk(), k, ExactConfig(), mesh)
        scores, found = index.search(queries, k)
        np.testing.assert_allclose(scores, wanted, atol=1e-5)
        if engine == "exact":
            np.testing.assert_array_equal(found[-1, : min(k, 2)], [3, 7][: min(k, 2)])
        pairs = zip(found, np.asarray(wanted_rows), strict=True)
        same = [len(set(a) & set(b)) / k for a, b in pairs]
        assert np.mean(same) >= 0.98 if k == 1 else np.mean(same) == 1
        alone = [index.search(query[None], k)[1][0] for query in queries[:5]]
        np.testing.assert_array_equal(alone, found[:5])
    assert index.search(queries[:0], 3)[1].shape == (0, 3)
    for bad, says in ((0, "k: 0"), (401, "k: 401; expected 1 to 400")):
        with pytest.raises(UserError, match=says):
            index.search(queries, bad)
    with pytest.raises(UserError, match="NaN"):
        index.search(np.full((1, 16), np.nan, np.float32), 3)
    with pytest.raises(UserError, match="vectors of 8 numbers; expected 16"):
        index.search(unit(1, 8), 3)


@pytest.mark.parametrize("engine", ENGINES)
def test_it_is_of_one_store(engine: str, tmp_path: Path) -> None:
    needs(engine)
    store, other = (stored(tmp_path / n, unit(20, 8, seed)) for n, seed in (("a", 0), ("b", 1)))
    build_other(store, IndexConfig(engine=engine), tmp_path / "index")
    with pytest.raises(UserError, match="built from other vectors"):
        open_index(tmp_path / "index", other)
    manifest = tmp_path / "index" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"engine": "faiss"}))
    with pytest.raises(UserError, match="of the engine 'faiss'; expected scann, exact or milvus"):
        open_index(tmp_path / "index", store)


def test_what_milvus_has_lost_is_named(tmp_path: Path) -> None:
    needs("milvus")
    store = stored(tmp_path / "store", unit(20, 8))
    build_other(store, IndexConfig(engine="milvus"), tmp_path / "index")
    for path in (tmp_path / "index").glob("milvus.db*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=r"milvus\.db: not there"):
        open_index(tmp_path / "index", store)


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    needs("milvus")
    store = stored(tmp_path / "store", unit(20, 8))
    config = IndexConfig(engine="milvus", uri="http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:1: Milvus says"):
        build_other(store, config, tmp_path / "index")
    assert not list(tmp_path.glob("index*"))


@pytest.mark.parametrize("engine", ENGINES)
def test_search_and_evaluation_work_on_it(
    engine: str, finished: Path, tiny_config: Path, tmp_path: Path
) -> None:
    needs(engine)
    work = Path(shutil.copytree(finished, tmp_path / "work"))
    words = [str(tiny_config), f"--workdir={work}", "--overwrite", f"--index.engine={engine}"]
    if engine == "exact":
        words.append("--eval.systems=student,hybrid")
    assert main(["index", *words]) == 0
    assert main(["eval", *words]) == 0
    rows = json.loads((work / "eval" / "metrics.json").read_text())["rows"]
    found = {(row["system"], row["search"]): row for row in rows}
    if engine == "exact":
        assert set(found) == {("student", "exact"), ("hybrid", "exact")}
        assert all(row["query_ms_p50"] > 0 for row in rows)
    else:
        row = found["student", "milvus"]
        assert row["ann_recall@10"] == 1
        assert row["metrics"] == pytest.approx(found["student", "exact"]["metrics"])
    assert len(scalingnote_jax.Searcher.open(work).search("topic3", 5)[0]) == 5


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--index.uri=x.db"], "--index.uri"),
        (["--index.engine=exact", "--index.target_recall=0.9"], "--index.target_recall"),
        (["--index.engine=faiss"], "--index.engine"),
    ],
)
def test_options_of_another_engine_are_refused(
    words: list[str], says: str, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(tiny_config), "--dry-run", *words]) == 2
    assert says in capsys.readouterr().err
