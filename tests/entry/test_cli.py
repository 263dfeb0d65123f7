"""The command as people use it: the whole method on a tiny collection, what is skipped the second
time, and bad input.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import scalingnote_jax
from scalingnote_jax.cli import main
from scalingnote_jax.vectors.store import VectorStore


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "work"))


def metrics_of(workdir: Path) -> dict:
    return json.loads((workdir / "eval" / "metrics.json").read_text())


def test_run_leaves_what_the_contract_says(finished: Path):
    for path in (
        "config.json",
        "data",
        "teacher",
        "student",
        "embeddings/teacher-doc/manifest.json",
        "index/manifest.json",
        "eval/per_query.jsonl",
        "eval/student-scann.trec",
        "report.html",
    ):
        assert (finished / path).exists(), path
    metrics = metrics_of(finished)
    rows = {(r["system"], r["search"]): r for r in metrics["rows"]}
    assert set(rows) == {
        ("bm25", "lexical"),
        ("untrained", "exact"),
        ("teacher", "exact"),
        ("teacher", "scann"),
        ("student", "exact"),
        ("student", "scann"),
    }
    student, teacher = rows["student", "scann"], rows["teacher", "scann"]
    assert student["queries"] == 20
    assert student["params_non_embedding"] < teacher["params_non_embedding"]
    assert student["ann_recall@10"] == 1.0  # below 20,000 vectors the index is exact
    assert student["metrics"] == rows["student", "exact"]["metrics"]
    assert metrics["retention"]["Recall@5"] == pytest.approx(
        student["metrics"]["Recall@5"] / teacher["metrics"]["Recall@5"]
    )
    assert 0 < student["query_ms_p50"] <= student["query_ms_p99"]


def test_training_helps_and_losses_fall(finished: Path):
    rows = {(r["system"], r["search"]): r["metrics"] for r in metrics_of(finished)["rows"]}
    assert rows["teacher", "exact"]["nDCG@10"] > rows["untrained", "exact"]["nDCG@10"]
    for stage in ("teacher", "student"):
        records = [
            json.loads(line)
            for line in (finished / stage / "metrics.jsonl").read_text().splitlines()
        ]
        losses = [x for r in records for x in r["losses"]]
        assert [r["step"] for r in records] == [5, 10, 15, 20]
        assert len(losses) == 20
        assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_a_second_run_does_nothing(finished: Path, tiny_config: Path, capsys):
    def stamps() -> dict[str, int]:
        kept = [p for p in finished.rglob("*") if p.is_file() and p.name != "config.json"]
        return {str(p): p.stat().st_mtime_ns for p in kept}

    before = stamps()
    assert main(["run", str(tiny_config), f"--workdir={finished}"]) == 0
    assert stamps() == before
    err = capsys.readouterr().err
    assert err.count("done already") == 6


@pytest.mark.slow
def test_a_changed_field_needs_overwrite_and_redoes_only_what_depends_on_it(
    copy: Path, tiny_config: Path, capsys
):
    teacher = (copy / "teacher" / "done.json").stat().st_mtime_ns
    words = ["run", str(tiny_config), f"--workdir={copy}", "--distill.w_mse=0.5"]
    assert main(words) == 2
    assert "distill.w_mse is 1.0 there" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    err = capsys.readouterr().err
    for verb, skipped in (
        ("data", True),
        ("train", True),
        ("encode", True),
        ("distill", False),
        ("index", True),
        ("eval", False),
    ):
        assert (f"{verb}: done already" in err) is skipped, verb
    assert (copy / "teacher" / "done.json").stat().st_mtime_ns == teacher


def test_search_answers(finished: Path, capsys):
    assert main(["search", str(finished), "topic3", "amber topic0", "-k", "3"]) == 0
    out = capsys.readouterr().out
    assert out.count(" 1. ") == 2
    assert len(out.splitlines()) == 8


def test_encode_of_another_side(copy: Path, tiny_config: Path, capsys):
    words = ["encode", str(tiny_config), f"--workdir={copy}", "--tower=student"]
    assert main([*words, "--side=query"]) == 0
    store = VectorStore.open(copy / "embeddings" / "student-query")
    assert len(store) == 60
    np.testing.assert_allclose(np.linalg.norm(store.vectors(), axis=1), 1.0, atol=1e-5)
    assert "student query" in error_of([*words, "--side=doc"], capsys)


def test_from_python(finished: Path):
    model = scalingnote_jax.load(finished)
    queries = model.encode_queries(["topic3", "topic4"])
    documents = model.encode_documents([("about cedar", "cedar topic1"), "topic3"])
    assert queries.shape == (2, 16)
    assert documents.shape == (2, 16)
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1.0, atol=1e-5)
    hits = scalingnote_jax.Searcher.open(finished).search(["topic3"], k=4)[0]
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
    assert len({h.id for h in hits}) == 4


def test_dry_run_writes_nothing(tiny_config: Path, tmp_path: Path, capsys):
    workdir = tmp_path / "none"
    assert (
        main(["run", str(tiny_config), f"--workdir={workdir}", "--dry-run", "--mesh.fsdp=2"]) == 0
    )
    err = capsys.readouterr().err
    for part in (
        "data=4 × fsdp=2",
        "query/body/",
        "embed→fsdp",
        "8 queries × 16 documents",
        "up to 15 negatives",
        "student/",
    ):
        assert part in err, part
    assert not workdir.exists()


def error_of(words: list[str], capsys) -> str:
    """The one line that a failing command prints."""
    capsys.readouterr()
    assert main(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("scalingnote: ")
    assert "Traceback" not in "\n".join(lines)
    return lines[-1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["serch"], "did you mean `scalingnote search`"),
        (["run"], "config"),
        (["run", "none.py"], "none.py: no such file; expected a Python file with get_config()"),
        (["search", "no-such-workdir", "text"], "no config.json"),
    ],
)
def test_wrong_words(words: list[str], says: str, capsys):
    assert says in error_of(words, capsys)


def test_unknown_field(tiny_config: Path, tmp_path: Path, capsys):
    line = error_of(
        ["train", str(tiny_config), f"--workdir={tmp_path / 'w'}", "--train.bach_size=3"], capsys
    )
    assert "did you mean --train.batch_size" in line
    assert not (tmp_path / "w").exists()


def test_a_step_before_the_one_it_needs(tiny_config: Path, tmp_path: Path, capsys):
    line = error_of(["train", str(tiny_config), f"--workdir={tmp_path / 'w'}"], capsys)
    assert "run `scalingnote data` first" in line


def test_a_batch_that_the_mesh_cannot_split(copy: Path, tiny_config: Path, capsys):
    words = ["train", str(tiny_config), f"--workdir={copy}", "--overwrite", "--train.batch_size=6"]
    assert "set it to 8" in error_of(words, capsys)


def test_a_damaged_vector_file_is_named_not_used(copy: Path, capsys):
    shard = next((copy / "embeddings" / "teacher-doc").glob("*.npy"))
    shard.write_bytes(shard.read_bytes()[:-4] + b"\0\0\0\1")
    assert shard.name in error_of(["search", str(copy), "topic3"], capsys)


def test_an_index_of_other_vectors_is_refused(copy: Path, capsys):
    manifest = copy / "embeddings" / "teacher-doc" / "manifest.json"
    values = json.loads(manifest.read_text())
    values["checkpoint"] = "another"
    manifest.write_text(json.dumps(values))
    assert "index" in error_of(["search", str(copy), "topic3"], capsys)


def test_nothing_half_written_stays_after_bad_data(tiny_config: Path, tmp_path: Path, capsys):
    data = Path(shutil.copytree(tiny_config.parent / "beir", tmp_path / "beir"))
    with (data / "corpus.jsonl").open("a") as f:
        f.write('{"_id": "x", "text": \n')
    workdir = tmp_path / "w"
    line = error_of(
        ["run", str(tiny_config), f"--workdir={workdir}", f"--data.path={data}"], capsys
    )
    assert "corpus.jsonl:41" in line
    assert [p.name for p in workdir.iterdir()] == ["config.json"]
