"""The ScaNN index: each kind finds what exact search finds, and nothing damaged reaches ScaNN."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from scalingnote_jax.config import Config, IndexConfig
from scalingnote_jax.config.validate import validate
from scalingnote_jax.errors import UserError
from scalingnote_jax.retrieval import build_index as building
from scalingnote_jax.retrieval.build_index import build_index
from scalingnote_jax.retrieval.exact import exact_search, overlap
from scalingnote_jax.retrieval.scann import scann_index, scann_library
from scalingnote_jax.retrieval.scann.scann_index import ScannIndex
from scalingnote_jax.vectors.store import StoreWriter, VectorStore
from scalingnote_jax.workflow.artefact import file_entry

pytest.importorskip("scann")

N, DIM = 3000, 32
KINDS = {  # kind: (config that forces it at this size, least Recall@10 against exact search)
    "brute_force": (IndexConfig(target_recall=0), 1.0),
    "ah": (IndexConfig(target_recall=0, exact_below=0), 0.99),
    "tree_ah": (
        IndexConfig(target_recall=0, exact_below=0, partition_above=100, search_percent=25),
        0.97,
    ),
    "parts": (
        IndexConfig(
            target_recall=0,
            exact_below=0,
            partition_above=100,
            search_percent=40,  # smaller parts have fewer leaves
            max_shard_rows=1100,
        ),
        0.97,
    ),
}


def clustered(n: int, seed: int) -> np.ndarray:
    """Unit vectors around 40 centres, as topics of a corpus are."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(40, DIM))
    x = centres[rng.integers(40, size=n)] + 0.7 * rng.normal(size=(n, DIM))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def make_store(dir: Path, vectors: np.ndarray) -> VectorStore:
    with StoreWriter(dir, vectors.shape[1], {"contract": {}, "corpus": "c"}, 100_000) as writer:
        writer.add([f"d{i}" for i in range(len(vectors))], vectors)
        return writer.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> VectorStore:
    return make_store(tmp_path_factory.mktemp("store") / "s", clustered(N, seed=1))


@pytest.fixture(scope="module")
def index_dirs(store: VectorStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("index")
    for kind, (cfg, _) in KINDS.items():
        build_index(store, cfg, root / kind)
    return {kind: root / kind for kind in KINDS}


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return clustered(100, seed=2)


@pytest.mark.parametrize("kind", KINDS)
def test_recall_against_exact_search(
    kind: str, store: VectorStore, index_dirs: dict[str, Path], queries: np.ndarray
) -> None:
    index = ScannIndex.open(index_dirs[kind], store.fingerprint)
    assert index.manifest["kind"] == ("tree_ah" if kind == "parts" else kind)
    assert index.sizes == ([1000, 1000, 1000] if kind == "parts" else [N])
    scores, rows = index.search(queries, 10)
    exact_scores, exact_rows = exact_search(queries, store.vectors(), 10)
    found = [len(set(a) & set(b)) / 10 for a, b in zip(rows, exact_rows, strict=True)]
    assert np.mean(found) >= KINDS[kind][1]
    # Reordering uses the exact vectors: what is reported is the true dot product, best first.
    true = np.einsum("qd,qkd->qk", queries, store.vectors()[rows])
    np.testing.assert_allclose(scores, true, atol=1e-5)
    assert (np.diff(scores, axis=1) <= 1e-6).all()
    assert (scores <= exact_scores + 1e-5).all()
    assert (scores.dtype, rows.dtype) == (np.float32, np.int32)


@pytest.mark.parametrize("kind", KINDS)
def test_same_top_k_before_and_after_reload_and_in_another_place(
    kind: str,
    store: VectorStore,
    queries: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built = []
    build = building.build_searcher
    monkeypatch.setattr(
        building, "build_searcher", lambda *args: built.append(build(*args)) or built[-1]
    )
    build_index(store, KINDS[kind][0], tmp_path / "index")
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    scores_before, rows_before = ScannIndex(manifest, built).search(queries, 10)
    (tmp_path / "index").rename(tmp_path / "moved")
    scores, rows = ScannIndex.open(tmp_path / "moved", store.fingerprint).search(queries, 10)
    np.testing.assert_array_equal(rows, rows_before)
    # Where in memory the vectors lie decides in which order ScaNN sums: the last bit may differ
    np.testing.assert_allclose(scores, scores_before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_threads_find_what_the_batch_finds(
    kind: str, store: VectorStore, index_dirs: dict[str, Path], queries: np.ndarray
) -> None:
    index = ScannIndex.open(index_dirs[kind], store.fingerprint)
    many = np.tile(queries, (6, 1))
    assert len(many) >= scann_index.MANY_QUERIES
    rows = index.search(queries, 10)[1]
    np.testing.assert_array_equal(index.search(many, 10)[1], np.tile(rows, (6, 1)))


@pytest.mark.parametrize("kind", KINDS)
def test_one_query_alone_finds_what_it_finds_among_others(
    kind: str, store: VectorStore, index_dirs: dict[str, Path], queries: np.ndarray
) -> None:
    index = ScannIndex.open(index_dirs[kind], store.fingerprint)
    rows = index.search(queries, 10)[1]
    alone = np.stack([index.search_one(query, 10)[1] for query in queries])
    np.testing.assert_array_equal(index.search(queries[:1], 10)[1], alone[:1])
    if kind in ("brute_force", "ah"):
        np.testing.assert_array_equal(alone, rows)
    # A tree searches other leaves for some queries (docs/search.md): how much is found stays.
    exact = exact_search(queries, store.vectors(), 10)[1]
    assert overlap(alone, rows, 10) > 0.98
    assert overlap(exact, alone, 10) == pytest.approx(overlap(exact, rows, 10), abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_always_k_rows_even_when_the_searched_leaves_hold_fewer(
    kind: str, store: VectorStore, index_dirs: dict[str, Path], queries: np.ndarray
) -> None:
    index = ScannIndex.open(index_dirs[kind], store.fingerprint)
    scores, rows = index.search(queries[:3], N)
    assert np.isfinite(scores).all()
    assert [sorted(r) for r in rows.tolist()] == [list(range(N))] * 3
    one_scores, one_rows = index.search_one(queries[0], N)
    assert np.isfinite(one_scores).all()
    assert sorted(one_rows.tolist()) == list(range(N))


def test_no_query_and_k_outside_the_index(store: VectorStore, index_dirs: dict[str, Path]) -> None:
    index = ScannIndex.open(index_dirs["ah"], store.fingerprint)
    assert index.search(np.empty((0, DIM), np.float32), 4)[1].shape == (0, 4)
    for k in (0, N + 1):
        with pytest.raises(UserError, match=f"k: {k}; expected 1 to {N}"):
            index.search(clustered(1, seed=3), k)
        with pytest.raises(UserError, match=f"k: {k}; expected 1 to {N}"):
            index.search_one(clustered(1, seed=3)[0], k)
    with pytest.raises(UserError, match="vectors of 33 numbers; expected 32"):
        index.search_one(np.zeros(DIM + 1, np.float32), 1)


def test_kind_follows_the_documented_limits() -> None:
    cfg = IndexConfig()
    assert building.needs_queries(20_000, cfg)
    assert not building.needs_queries(19_999, cfg)
    assert not building.needs_queries(39_000, IndexConfig(max_shard_rows=20_000))
    assert scann_library.rule_of_thumb(19_999, cfg) == {"kind": "brute_force"}
    assert scann_library.rule_of_thumb(20_000, cfg)["kind"] == "ah"
    assert scann_library.rule_of_thumb(100_000, cfg)["kind"] == "ah"
    big = scann_library.rule_of_thumb(1_000_000, cfg)
    assert (big["kind"], big["leaves"], big["leaves_searched"]) == ("tree_ah", 1000, 100)
    assert (big["dimensions_per_block"], big["anisotropic_quantization_threshold"]) == (2, 0.2)
    assert big["reorder"] == 200


@pytest.mark.parametrize("n", [1, 15, 16, 17])
def test_very_few_vectors_work_with_every_config(n: int, tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", clustered(n, seed=4))
    for kind, (cfg, _) in KINDS.items():
        build_index(store, IndexConfig(**{**vars(cfg), "partition_above": 0}), tmp_path / kind)
        _, rows = ScannIndex.open(tmp_path / kind, store.fingerprint).search(store.vectors(), n)
        assert rows[:, 0].tolist() == list(range(n))


def test_parts_are_as_equal_as_can_be_and_never_over_the_cap() -> None:
    assert building.part_bounds(10, 0) == [(0, 10)]
    assert building.part_bounds(10, 4) == [(0, 3), (3, 6), (6, 10)]


def test_only_one_part_of_the_vectors_is_read_at_a_time(
    store: VectorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    build = building.build_searcher
    monkeypatch.setattr(
        building, "build_searcher", lambda v, s: given.append(len(v)) or build(v, s)
    )
    build_index(store, KINDS["parts"][0], tmp_path / "index")
    assert given == [1000, 1000, 1000]


def test_nan_queries_another_width_and_another_scann_are_one_line_each(
    store: VectorStore,
    index_dirs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index = ScannIndex.open(index_dirs["ah"], store.fingerprint)
    bad = clustered(3, seed=5)
    bad[1, 0] = np.nan
    with pytest.raises(UserError, match="queries: vector 1 holds NaN or infinity"):
        index.search(bad, 5)
    with pytest.raises(UserError, match="queries: vector 0 holds NaN"):
        index.search_one(bad[1], 5)
    with pytest.raises(UserError, match="queries: vector 1 holds NaN"):
        build_index(store, IndexConfig(), tmp_path / "index", bad)
    with pytest.raises(UserError, match=r"shape \(3, 5\); expected \(q, 32\)"):
        build_index(store, IndexConfig(), tmp_path / "index", bad[:, :5])
    monkeypatch.setattr(scann_index, "version", lambda _: "9.9.9")
    with pytest.raises(UserError, match=r"built by ScaNN 1\..*; expected ScaNN 9.9.9"):
        ScannIndex.open(index_dirs["ah"], store.fingerprint)


def copy_of(index_dir: Path, to: Path) -> Path:
    for path in index_dir.rglob("*"):
        if path.is_file():
            target = to / path.relative_to(index_dir)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return to


@pytest.mark.parametrize("how", ["missing", "cut", "flipped"])
@pytest.mark.parametrize(
    "file", ["dataset.npy", "hashed_dataset.npy", "serialized_partitioner.pb", "scann_assets.pbtxt"]
)
def test_a_damaged_file_is_named_before_scann_sees_it(
    file: str,
    how: str,
    store: VectorStore,
    index_dirs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dir = copy_of(index_dirs["tree_ah"], tmp_path / "index")
    path = dir / "scann-000" / file
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if how == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    monkeypatch.setattr(scann_index, "import_scann", lambda: pytest.fail("ScaNN was called"))
    with pytest.raises(UserError, match=f"{file}: .*run `scalingnote index` again"):
        ScannIndex.open(dir, store.fingerprint)


def test_other_vectors_foreign_files_and_broken_manifests_are_refused(
    store: VectorStore, index_dirs: dict[str, Path], tmp_path: Path
) -> None:
    dir = copy_of(index_dirs["ah"], tmp_path / "index")
    with pytest.raises(UserError, match="built from other vectors"):
        ScannIndex.open(dir, "0" * 64)
    with pytest.raises(UserError, match=r"manifest.json: not there.*scalingnote index"):
        ScannIndex.open(tmp_path / "nowhere", store.fingerprint)
    (dir / "scann-000" / "scann_docids.pkl").write_bytes(b"")
    with pytest.raises(UserError, match=r"scann_docids.pkl: a file that the index did not write"):
        ScannIndex.open(dir, store.fingerprint)
    manifest = json.loads((dir / "manifest.json").read_text())
    del manifest["parts"]
    (dir / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="lacks 'parts'"):
        ScannIndex.open(dir, store.fingerprint)


def test_a_failed_build_leaves_the_old_index_and_no_partial(
    store: VectorStore, index_dirs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dir = copy_of(index_dirs["brute_force"], tmp_path / "index")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(building, "write_manifest", fail)
    with pytest.raises(OSError, match="disk full"):
        build_index(store, IndexConfig(), dir)
    assert [p.name for p in tmp_path.iterdir()] == ["index"]
    assert len(ScannIndex.open(dir, store.fingerprint)) == N


def test_options_out_of_range() -> None:
    for cfg, said in [
        (IndexConfig(search_percent=0), "--index.search_percent: 0;"),
        (IndexConfig(search_percent=101), "--index.search_percent: 101;"),
        (IndexConfig(reorder=0), "--index.reorder: 0;"),
        (IndexConfig(target_recall=1.5), "--index.target_recall: 1.5;"),
        (IndexConfig(max_shard_rows=-1), "--index.max_shard_rows: -1;"),
    ]:
        with pytest.raises(UserError, match=said):
            validate(Config("x", index=cfg))


def test_scann_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scann.scann_ops.py", None)
    with pytest.raises(UserError, match=r"pip install 'scalingnote_jax\[index\]'"):
        scann_library.import_scann()


def test_tensorflow_stays_out_and_building_is_silent(
    store: VectorStore, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    build_index(store, KINDS["tree_ah"][0], tmp_path / "index")
    assert capfd.readouterr().err == ""
    assert "tensorflow" not in sys.modules


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("way", ["listed", "beside", "link", "part elsewhere", "asset elsewhere"])
def test_an_index_of_a_stranger_opens_nothing_but_its_own_files(
    way: str,
    store: VectorStore,
    index_dirs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dir = copy_of(index_dirs["ah"], tmp_path / "index")
    path, fired = dir / "manifest.json", tmp_path / "fired"
    manifest = json.loads(path.read_text())
    (part,) = manifest["parts"]
    folder = dir / part["folder"]
    bomb = folder / "scann_docids.pkl"
    if way in ("listed", "beside"):
        bomb.write_bytes(pickle.dumps(Bomb(fired)))
    if way == "listed":
        part["files"].append(file_entry(bomb))
    if way == "link":
        (folder / "dataset.npy").rename(tmp_path / "dataset.npy")
        (folder / "dataset.npy").symlink_to(tmp_path / "dataset.npy")
    if way == "part elsewhere":
        folder.rename(tmp_path / "elsewhere")
        part["folder"] = "../elsewhere"
    if way == "asset elsewhere":
        assets = folder / "scann_assets.pbtxt"
        assets.write_text(assets.read_text().replace('"dataset.npy"', '"/etc/passwd"'))
        (entry,) = (e for e in part["files"] if e["file"] == assets.name)
        entry |= file_entry(assets)
    path.write_text(json.dumps(manifest))
    monkeypatch.setattr(scann_index, "import_scann", lambda: pytest.fail("ScaNN was called"))
    with pytest.raises(UserError, match=r"run `scalingnote index` again"):
        ScannIndex.open(dir, store.fingerprint)
    assert not fired.exists()
