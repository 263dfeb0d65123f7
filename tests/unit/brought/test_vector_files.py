"""Vectors in files of several forms: the same rows with the same ids, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scalingnote_jax.brought.vector_files import files_hash, open_vectors
from scalingnote_jax.errors import UserError
from scalingnote_jax.vectors.store import StoreWriter

N, D = 50, 8
IDS = [f"d{i}" for i in range(N)]
ROWS = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)


def write_parquet(path: Path, ids: list, rows: list, key: str = "id", fixed: bool = False) -> Path:
    kind = pa.list_(pa.float32(), D) if fixed else pa.list_(pa.float32())
    pq.write_table(pa.table({key: ids, "vector": pa.array([*map(list, rows)], kind)}), path)
    return path


def by_id(name: str | Path) -> dict[str, np.ndarray]:
    found = open_vectors(str(name), "--encode.vectors")
    rows = np.concatenate(list(found.blocks()))
    assert rows.dtype == np.float32
    assert found.dim == D
    return dict(zip(found.ids, rows, strict=True))


def make(form: str, folder: Path) -> Path:
    if form == "npy":
        np.save(folder / "v.npy", ROWS)
        (folder / "v.ids.txt").write_text("\n".join(IDS) + "\n")
        return folder / "v.npy"
    if form == "folder":
        for number, part in enumerate(np.array_split(ROWS, 3)):
            np.save(folder / f"part-{number}.npy", part)
        (folder / "ids.json").write_text(json.dumps(IDS))
        return folder
    if form in ("parquet", "fixed"):
        return write_parquet(folder / "v.parquet", IDS, list(ROWS), fixed=form == "fixed")
    if form == "parquets":
        write_parquet(folder / "a.parquet", IDS[:20], list(ROWS[:20]))
        write_parquet(folder / "b.parquet", IDS[20:], list(ROWS[20:]))
        return folder
    if form == "store":
        with StoreWriter(folder / "s", D, {}, shard_rows=20) as writer:
            writer.add(IDS, ROWS)
            writer.close()
        return folder / "s"
    index = faiss.IndexFlatIP(D)
    if form == "ivf":
        index = faiss.IndexIVFFlat(index, D, 4, faiss.METRIC_INNER_PRODUCT)
        index.train(ROWS)
    index.add(ROWS)
    faiss.write_index(index, str(folder / "v.faiss"))
    (folder / "ids.txt").write_text("\n".join(IDS))
    return folder / "v.faiss"


FORMS = ["npy", "folder", "parquet", "fixed", "parquets", "store", "flat", "ivf"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same(form: str, tmp_path: Path) -> None:
    found = by_id(make(form, tmp_path))
    assert sorted(found) == sorted(IDS)
    np.testing.assert_array_equal(np.stack([found[name] for name in IDS]), ROWS)


def test_numbers_of_faiss_are_ids(tmp_path: Path) -> None:
    """Those of an id map, or else the places in the index."""
    numbers = np.arange(N, dtype=np.int64) * 3 + 7
    for inner in (
        faiss.IndexFlatIP(D),
        faiss.IndexIVFFlat(faiss.IndexFlatIP(D), D, 4, faiss.METRIC_INNER_PRODUCT),
    ):
        inner.train(ROWS)
        index = inner if isinstance(inner, faiss.IndexIVFFlat) else faiss.IndexIDMap2(inner)
        index.add_with_ids(ROWS, numbers)
        faiss.write_index(index, str(tmp_path / "m.index"))
        found = by_id(tmp_path / "m.index")
        np.testing.assert_array_equal(np.stack([found[str(i)] for i in numbers]), ROWS)
    plain = faiss.IndexFlatIP(D)
    plain.add(ROWS)
    faiss.write_index(plain, str(tmp_path / "p.index"))
    assert list(by_id(tmp_path / "p.index")) == [str(i) for i in range(N)]


def test_whole_numbers_are_ids(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", ROWS.astype(np.float16))
    np.save(tmp_path / "ids.npy", np.arange(N))
    assert list(by_id(tmp_path / "v.npy"))[:3] == ["0", "1", "2"]
    write_parquet(tmp_path / "v.parquet", [*range(N)], list(ROWS))
    assert list(by_id(tmp_path / "v.parquet"))[-1] == "49"


def test_the_hash_is_of_the_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = (files_hash(str(make("npy", tmp_path / name)), "--x") for name in ("a", "b"))
    assert first == second
    (tmp_path / "b" / "v.ids.txt").write_text("\n".join(["other", *IDS[1:]]))
    assert files_hash(str(tmp_path / "b" / "v.npy"), "--x") != first


def refused(name: Path) -> str:
    with pytest.raises(UserError) as error:
        by_id(name)
    return str(error.value)


def test_what_is_refused(tmp_path: Path) -> None:
    path = make("npy", tmp_path)
    (tmp_path / "v.ids.txt").write_text("\n".join(IDS[:-1]))
    assert "50 vectors and 49 ids" in refused(path)
    (tmp_path / "v.ids.txt").write_text("\n".join([*IDS[:-1], "d3"]))
    assert "id 'd3' twice, the second time in row 49" in refused(path)
    (tmp_path / "v.ids.txt").write_text("\n".join([*IDS[:-1], " "]))
    assert "an empty id in row 49" in refused(path)
    (tmp_path / "v.ids.txt").unlink()
    assert "no ids beside the vectors" in refused(path)
    path.write_bytes(path.read_bytes()[:-40])
    (tmp_path / "ids.txt").write_text("\n".join(IDS))
    assert "cannot be read" in refused(path)
    np.save(path, ROWS.ravel())
    assert "an array of shape (400,)" in refused(path)
    assert "'--encode" not in refused(tmp_path / "nothing.npy")
    assert "nothing.npy' is not there" in refused(tmp_path / "nothing.npy")
    (tmp_path / "x.csv").write_text("")
    assert "expected an .npy file or a folder" in refused(tmp_path / "x.csv")


def test_what_is_refused_of_parquet(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "v.parquet", IDS, [*ROWS[:-1], ROWS[-1][:5]])
    with pytest.raises(UserError, match=r"a vector of 5 numbers in row 49; expected 8"):
        by_id(path)
    write_parquet(path, [*IDS[:-1], None], list(ROWS))
    assert "an empty id in row 49" in refused(path)
    write_parquet(path, IDS, list(ROWS), key="name")
    assert "no column 'id' among name, vector" in refused(path)
    pq.write_table(pa.table({"id": IDS, "vector": IDS}), path)
    assert "vector of string; expected lists of floats" in refused(path)
    path.write_bytes(b"PAR1")
    assert "expected a whole Parquet file" in refused(path)


def test_what_is_refused_of_faiss(tmp_path: Path) -> None:
    index = faiss.IndexPQ(D, 4, 4)
    index.train(ROWS)
    index.add(ROWS)
    faiss.write_index(index, str(tmp_path / "q.faiss"))
    assert "IndexPQ; expected IndexFlat or IndexIVFFlat" in refused(tmp_path / "q.faiss")
    (tmp_path / "broken.faiss").write_bytes(b"IxF2 is not all")
    assert "cannot be read" in refused(tmp_path / "broken.faiss")
    path = make("flat", tmp_path)
    (tmp_path / "ids.txt").write_text("\n".join(IDS[:-1]))
    assert "50 vectors with numbers up to 49, 49 ids" in refused(path)
