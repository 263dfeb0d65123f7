"""Vectors that others have made: document vectors in place of encoding, query vectors in place of
the teacher's tower, and a teacher that is known by two files alone.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from as_they_come import UNTRAINED

import scalingnote_jax
from scalingnote_jax.brought.same_space import nearness
from scalingnote_jax.cli import main
from scalingnote_jax.config.load import load_config
from scalingnote_jax.errors import UserError
from scalingnote_jax.vectors.store import VectorStore

pytest_plugins = ("as_they_come",)
WORDS = ("amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "jade")
D = 16


def rows_of(workdir: Path) -> dict[tuple[str, str], dict]:
    metrics = json.loads((workdir / "eval" / "metrics.json").read_text())
    return {(row["system"], row["search"]): row for row in metrics["rows"]}


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line of a run that is refused."""
    capsys.readouterr()
    assert main(words) == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.fixture
def index(evaluated: Path, tmp_path: Path) -> Path:
    """The document vectors of a run in another order, of another length, and one more."""
    store = VectorStore.open(evaluated / "embeddings" / "teacher-doc")
    order = np.random.default_rng(1).permutation(len(store))
    rows = store.vectors()[order] * np.linspace(0.5, 9, len(store))[:, None]
    np.save(tmp_path / "v.npy", np.concatenate([rows, rows[:1]]).astype(np.float32))
    ids = [store.ids[i] for i in order]
    (tmp_path / "ids.txt").write_text("\n".join([*ids, "of-no-document"]))
    return tmp_path / "v.npy"


@pytest.mark.slow
def test_vectors_in_place_of_encoding(
    evaluated: Path, config: Path, index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same figures as with the vectors that the tower makes, and no document is encoded."""
    workdir = tmp_path / "w"
    words = ["run", str(config), f"--workdir={workdir}", *UNTRAINED, f"--encode.vectors={index}"]
    assert main(words) == 0
    err = capsys.readouterr().err
    assert "encode documents" not in err
    assert "1 vectors are of no document of the collection: left out" in err
    assert "41 vectors" not in err
    assert "40 vectors had another length than 1" in err or "39 of 40 vectors had another" in err
    assert "mean cosine 1.0000 with the tower's own vectors" in err
    ours, theirs = rows_of(workdir), rows_of(evaluated)
    assert ours["model", "exact"]["metrics"] == theirs["model", "exact"]["metrics"]
    first, second = (VectorStore.open(w / "embeddings/teacher-doc") for w in (workdir, evaluated))
    assert first.ids == second.ids
    np.testing.assert_allclose(first.vectors(), second.vectors(), atol=1e-6)
    assert first.manifest["checkpoint"] == second.manifest["checkpoint"]
    assert main(words) == 0
    assert "encode: done already" in capsys.readouterr().err
    (tmp_path / "ids.txt").write_text((tmp_path / "ids.txt").read_text() + "\n")
    assert main(words) == 0  # another file: imported again, to the same effect
    assert "import vectors" in capsys.readouterr().err
    assert main([*words[:-1], "--encode.vectors=", "--overwrite"]) == 0
    assert "encode documents" in capsys.readouterr().err


@pytest.mark.slow
def test_document_vectors_that_are_refused(
    config: Path, index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", str(config), f"--workdir={tmp_path / 'w'}", *UNTRAINED]
    words.append(f"--encode.vectors={index}")
    rows = np.load(index)
    np.save(index, rows[:, :8])
    assert "vectors of 8 numbers; expected the tower's 16" in said(words, capsys)
    np.save(index, np.random.default_rng(0).permuted(rows, axis=1))
    assert "vectors of another teacher: mean cosine" in said(words, capsys)
    broken = rows.copy()
    broken[20] = 0
    np.save(index, broken)
    assert "is all zeros, which has no direction" in said(words, capsys)
    broken[20, 3] = np.nan
    np.save(index, broken)
    assert "holds NaN or infinity" in said(words, capsys)
    np.save(index, rows[3:])
    ids = (tmp_path / "ids.txt").read_text().splitlines()[3:]
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    assert "3 of 40 documents have no vector, such as" in said(words, capsys)
    assert not list((tmp_path / "w").glob("embeddings/*"))


def text_vector(text: str, space: int = 0) -> np.ndarray:
    """A teacher that no tower here is: the sum of random vectors of the words."""
    table = np.random.default_rng(space).normal(size=(len(WORDS), D))
    return np.sum([table[WORDS.index(word)] for word in text.split()], axis=0)


def write_vectors(path: Path, key: str, names: list[str], texts: list[str], space: int = 0) -> None:
    rows = [text_vector(text, space).astype(np.float32) for text in texts]
    column = pa.array([row.tolist() for row in rows], pa.list_(pa.float32()))
    pq.write_table(pa.table({key: names, "vector": column}), path)


@pytest.fixture(scope="module")
def two_files(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with docs.parquet and queries.parquet, and a config that knows nothing else."""
    folder, rng = tmp_path_factory.mktemp("two"), np.random.default_rng(0)
    documents = [" ".join(rng.choice(WORDS, 6)) for _ in range(120)]
    queries = sorted({" ".join(rng.choice(WORDS, 3)) for _ in range(500)})
    write_vectors(folder / "docs.parquet", "id", [f"d{i}" for i in range(120)], documents)
    write_vectors(folder / "queries.parquet", "text", queries, queries)
    none = 'TowerConfig(weights="none")'
    text = tiny_config.read_text().replace("query=tower, doc=tower", f"query={none}, doc={none}")
    text = text.replace(
        'queries=("train", "sentences"), duration="20 steps"', 'duration="60 steps"'
    )
    (folder / "two.py").write_text(
        text.replace("    return Config(", "    return Config(\n        ", 1)
    )
    return folder


def words_of(folder: Path, workdir: Path, **other: Path) -> list[str]:
    files = {"vectors": folder / "docs.parquet", "query_vectors": folder / "queries.parquet"}
    files |= other
    return [
        "run",
        str(folder / "two.py"),
        f"--workdir={workdir}",
        "--data.source=none",
        "--data.path=",
        "--train.duration=",
        f"--encode.vectors={files['vectors']}",
        f"--distill.query_vectors={files['query_vectors']}",
    ]


@pytest.mark.slow
def test_a_teacher_known_by_two_files(
    two_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_of(two_files, tmp_path / "w")
    assert main(words) == 0
    rows = rows_of(tmp_path / "w")
    assert set(rows) == {(s, by) for s in ("teacher", "student") for by in ("exact", "scann")}
    assert rows["teacher", "exact"]["metrics"] == {"Overlap@5": 1.0, "Overlap@10": 1.0}
    assert rows["student", "scann"]["ann_recall@10"] == 1.0  # so few are searched by brute force
    student = rows["student", "exact"]["metrics"]["Overlap@10"]
    assert 0.3 < student < 1  # of 120 documents; by chance it would be 0.08
    assert rows["student", "scann"]["query_ms_p50"] > 0
    hits = scalingnote_jax.Searcher.open(tmp_path / "w").search("amber basin", k=3)[0]
    assert all(hit.id.startswith("d") and hit.text == "" for hit in hits)
    capsys.readouterr()
    assert main(words) == 0
    assert capsys.readouterr().err.count("done already") == 6
    with pytest.raises(UserError, match=r"--teacher\.doc\.weights: a tower that is not here"):
        scalingnote_jax.load(tmp_path / "w").encode_documents(["amber"])


@pytest.mark.slow
def test_query_vectors_that_are_refused(
    two_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, texts = tmp_path / "q.parquet", ["amber basin", "cedar delta", "ember fjord"] * 20
    words = words_of(two_files, tmp_path / "w", query_vectors=path)
    assert "q.parquet' is not there; expected" in said(words, capsys)
    write_vectors(path, "text", texts, texts, space=1)
    assert "vectors of another teacher: a query's best document has" in said(words, capsys)
    narrow = pa.array([[0.5] * 8] * 3, pa.list_(pa.float32()))
    pq.write_table(pa.table({"text": texts[:3], "vector": narrow}), path)
    assert "vectors of 8 numbers; expected 16, as the document vectors" in said(words, capsys)
    broken = pa.array([[0.5] * 16, [float("nan")] * 16], pa.list_(pa.float32()))
    pq.write_table(pa.table({"text": texts[:2], "vector": broken}), path)
    assert "the vector of row 1 ('cedar delta') holds NaN" in said(words, capsys)
    write_vectors(path, "query", texts, texts)
    assert "no column 'text' among query, vector" in said(words, capsys)


@pytest.mark.slow
def test_held_out_queries_are_not_learned(
    two_files: Path, tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a collection: 20 test queries and 5 dev queries of it are in the file."""
    beir = tiny_config.parent / "beir"
    collection = [json.loads(x) for x in (beir / "queries.jsonl").read_text().splitlines()]
    judged = (beir / "qrels" / "test.tsv").read_text() + (beir / "qrels" / "dev.tsv").read_text()
    held = [q["text"].upper() for q in collection if f"\n{q['_id']}\t" in judged]
    documents = [json.loads(x)["_id"] for x in (beir / "corpus.jsonl").read_text().splitlines()]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 6)) for _ in documents]
    write_vectors(tmp_path / "d.parquet", "id", documents, texts)
    write_vectors(
        tmp_path / "q.parquet", "text", [*held, *texts[:30]], [texts[0]] * len(held) + texts[:30]
    )
    files = {"vectors": tmp_path / "d.parquet", "query_vectors": tmp_path / "q.parquet"}
    words = words_of(two_files, tmp_path / "w", **files)
    words = [w for w in words if not w.startswith("--data.")]
    assert main(["run", *words[1:]]) == 0
    err = capsys.readouterr().err
    assert f"{len(held)} texts of --distill.query_vectors are held-out queries" in err
    assert "distill: 30 query texts (" in err
    assert set(rows_of(tmp_path / "w")) == {
        ("bm25", "lexical"),
        ("student", "exact"),
        ("student", "scann"),
    }
    shutil.rmtree(tmp_path / "w")


def test_unrelated_spaces_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 4)) for _ in range(300)]
    ours, theirs = (
        np.array([text_vector(t, space) for t in texts], np.float32) for space in (0, 1)
    )
    documents = ours / np.linalg.norm(ours, axis=1, keepdims=True)
    found, chance = nearness(ours[:50] * 7, documents, seed=0)
    assert found == pytest.approx(1.0, abs=1e-5)  # each query is a document
    assert chance < 0.9
    found, chance = nearness(theirs[:50], documents, seed=0)
    assert found <= chance


def test_vectors_and_training_exclude_each_other() -> None:
    with pytest.raises(UserError, match=r"--encode\.vectors: 'v\.npy' with a teacher that stage 1"):
        load_config("quickstart", ["--encode.vectors=v.npy"])
    with pytest.raises(UserError, match=r"--distill\.query_vectors: 'q' with a teacher that"):
        load_config("quickstart", ["--distill.query_vectors=q"])
    none = ["--train.duration=", "--teacher.doc.weights=none"]
    with pytest.raises(UserError, match=r"--teacher\.doc\.weights: 'none'.*--encode\.vectors"):
        load_config("quickstart", none)
    with pytest.raises(UserError, match=r"--teacher\.query\.weights: 'none'.*--distill\.query_vec"):
        load_config("quickstart", ["--train.duration=", "--teacher.query.weights=none"])
    known = ["--train.duration=", "--teacher.query.weights=none", "--distill.query_vectors=q"]
    first = [*known, "--distill.student.weights=teacher:first", "--distill.queries=train"]
    first += ["--distill.sentences_per_document=1"]
    with pytest.raises(UserError, match=r"--distill\.student\.weights: 'teacher:first'; expected"):
        load_config("quickstart", first)
    load_config("quickstart", [*first, "--distill.duration="])
    with pytest.raises(UserError, match=r"--data\.source: 'none'.*expected --encode\.vectors"):
        load_config("configs/evaluate.py", ["--data.source=none"])
