"""The vector store: what goes in comes out, and nothing damaged is ever read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scalingnote_jax.errors import UserError
from scalingnote_jax.vectors.store import StoreWriter, VectorStore

EXTRA = {"contract": {"prompt": "{text}"}, "corpus": "abc"}


def rows(n: int, dim: int = 4) -> np.ndarray:
    return np.arange(n * dim, dtype=np.float32).reshape(n, dim)


def names(n: int) -> list[str]:
    return [f"doc-é-{i}" for i in range(n)]


def write(dir: Path, n: int = 5, shard_rows: int = 100) -> VectorStore:
    with StoreWriter(dir, 4, EXTRA, shard_rows) as writer:
        writer.add(names(n), rows(n))
        return writer.close()


def test_round_trip_over_several_shards_and_uneven_calls(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", 4, EXTRA, shard_rows=3) as writer:
        for start, stop in ((0, 1), (1, 8), (8, 8), (8, 10)):
            writer.add(names(10)[start:stop], rows(10)[start:stop])
        writer.close()
    store = VectorStore.open(tmp_path / "s")
    assert [s["rows"] for s in store.manifest["shards"]] == [3, 3, 3, 1]
    np.testing.assert_array_equal(store.vectors(), rows(10))
    assert store.ids == names(10)
    assert (len(store), store.dim) == (10, 4)
    assert store.manifest["contract"] == EXTRA["contract"]
    assert store.manifest["corpus"] == "abc"
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_one_shard_is_memory_mapped(tmp_path: Path) -> None:
    assert isinstance(write(tmp_path / "s").vectors(), np.memmap)


def test_added_rows_are_copied(tmp_path: Path) -> None:
    buffer = rows(2)
    with StoreWriter(tmp_path / "s", 4, EXTRA, 100) as writer:
        writer.add(["a", "b"], buffer)
        buffer[:] = -1  # an encoder may reuse its buffer
        store = writer.close()
    np.testing.assert_array_equal(store.vectors(), rows(2))


def test_fingerprint_follows_the_content_not_the_place(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b")
    assert a.fingerprint == b.fingerprint
    assert write(tmp_path / "c", n=6).fingerprint != a.fingerprint
    with StoreWriter(tmp_path / "d", 4, EXTRA | {"corpus": "other"}, 100) as writer:
        writer.add(names(5), rows(5))
        assert writer.close().fingerprint != a.fingerprint


def test_replaces_an_older_store_as_a_whole(tmp_path: Path) -> None:
    write(tmp_path / "s", n=9, shard_rows=2)
    assert len(write(tmp_path / "s", n=3)) == 3
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == [
        "ids.json",
        "manifest.json",
        "vectors-00000.npy",
    ]


def test_a_failed_write_leaves_the_old_store_and_no_partial(tmp_path: Path) -> None:
    write(tmp_path / "s")
    bad = rows(3)
    bad[1, 2] = np.nan

    def encode() -> None:
        with StoreWriter(tmp_path / "s", 4, EXTRA, 100) as writer:
            writer.add(names(5), rows(5))
            writer.add(["x", "y", "z"], bad)

    with pytest.raises(UserError, match=r"'y' \(row 6\) holds NaN"):
        encode()
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
    assert len(VectorStore.open(tmp_path / "s")) == 5


def test_infinity_duplicate_ids_and_an_empty_store_are_refused(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s", 4, EXTRA, 100)
    with pytest.raises(UserError, match="at least one"):
        writer.close()
    with pytest.raises(UserError, match="infinity"):
        writer.add(["a"], np.full((1, 4), np.inf, np.float32))
    with pytest.raises(UserError, match="'b' twice"):
        writer.add(["b", "b"], rows(2))


@pytest.mark.parametrize(
    "bad", [rows(2, dim=5), rows(3), rows(2).astype(np.float64)], ids=["dim", "rows", "dtype"]
)
def test_wrong_shape_or_dtype_is_refused(tmp_path: Path, bad: np.ndarray) -> None:
    writer = StoreWriter(tmp_path / "s", 4, EXTRA, 100)
    with pytest.raises(ValueError, match=r"not \(2, 4\) float32"):
        writer.add(["a", "b"], bad)


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[:-3])
    else:
        path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])


@pytest.mark.parametrize("file", ["vectors-00001.npy", "ids.json"])
@pytest.mark.parametrize(
    ("how", "said"),
    [("missing", "not there"), ("cut", r"\d+ bytes where"), ("flipped", "damaged")],
)
def test_a_damaged_file_is_named(tmp_path: Path, file: str, how: str, said: str) -> None:
    write(tmp_path / "s", shard_rows=3)
    damage(tmp_path / "s" / file, how)
    with pytest.raises(UserError, match=f"{file}: {said}"):
        VectorStore.open(tmp_path / "s")


def test_a_missing_or_broken_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"manifest.json: not there.*scalingnote encode"):
        VectorStore.open(tmp_path / "nowhere")
    write(tmp_path / "s")
    manifest = tmp_path / "s" / "manifest.json"
    whole = json.loads(manifest.read_text())
    for text, said in [
        ("{", "not JSON"),
        ("[]", "the whole is a list, not an object"),
        (json.dumps({k: v for k, v in whole.items() if k != "shards"}), "lacks 'shards'"),
        (json.dumps(whole | {"count": 4}), "count 4, 5 rows in the shards, 5 ids"),
    ]:
        manifest.write_text(text)
        with pytest.raises(UserError, match=said):
            VectorStore.open(tmp_path / "s")


@pytest.mark.parametrize(("dtype", "bytes_each"), [("bfloat16", 2), ("int8", 1)])
def test_smaller_types_lose_no_more_than_their_manifest_says(
    dtype: str, bytes_each: int, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).normal(size=(50, 32)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    with StoreWriter(tmp_path / "s", 32, {}, 20, dtype) as writer:
        writer.add(names(50), x)
        store = writer.close()
    assert np.load(tmp_path / "s" / "vectors-00000.npy").nbytes == 20 * 32 * bytes_each
    read = store.vectors()
    assert read.dtype == np.float32
    np.testing.assert_array_equal(store.on_disk()[15:45], read[15:45])
    errors = np.linalg.norm(read - x, axis=1)
    loss = store.manifest["loss"]
    assert 0 < loss["mean_score_error"] < loss["max_score_error"] < 0.02
    np.testing.assert_allclose(loss["mean_score_error"], errors.mean(), rtol=1e-5)
    np.testing.assert_allclose(loss["max_score_error"], errors.max(), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_rows_in_memory_follow_those_on_disk(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, more = (rng.normal(size=(n, 32)).astype(np.float32) for n in (50, 7))
    with StoreWriter(tmp_path / "s", 32, {}, 20, dtype) as writer:
        writer.add(names(50), x)
        store = writer.close()
    joined = store.on_disk().followed_by(more)
    assert joined.shape == (57, 32)
    np.testing.assert_array_equal(joined[0:50], store.vectors())
    np.testing.assert_array_equal(joined[48:57], np.concatenate([store.vectors()[48:], more]))
    rows = np.array([56, 3, 49, 20, 3])  # of all parts, one twice
    np.testing.assert_array_equal(joined[rows], joined[0:57][rows])
    assert joined[rows[:0]].shape == (0, 32)


def test_a_shard_without_rows_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "s")
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    manifest["shards"].append(manifest["shards"][0] | {"rows": 0})
    (tmp_path / "s" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"shards\[1\].rows is 0, not a number of 1 or more"):
        VectorStore.open(tmp_path / "s")
