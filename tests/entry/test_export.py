"""`scalingnote export` as people use it: what lies in the folders, that they give the vectors of
the run, and bad input.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import scalingnote_jax
from scalingnote_jax.cli import main
from scalingnote_jax.text.tokenizer import load_tokenizer

QUERIES = ["topic3", "amber topic0 basin", "of no topic"]
DOCUMENTS = ["cedar topic1 delta", "umber", " ".join(["violet willow"] * 20)]


def export(workdir: Path, out: Path, *words: str) -> Path:
    assert main(["export", str(workdir), str(out), *words]) == 0
    assert [p.name for p in out.parent.iterdir()] == [out.name]  # nothing beside it is left
    return out


def call_programs(folder: Path, texts: list[str]) -> np.ndarray:
    """[n, D], by the program for the longest texts."""
    from jax import export as jax_export

    length = 16
    ids = load_tokenizer(str(folder / "tokenizer.json")).encode(texts, length)
    mask = np.arange(length) < np.array([len(row) for row in ids])[:, None]
    tokens = np.zeros(mask.shape, np.int32)
    tokens[mask] = np.concatenate(ids)
    program = jax_export.deserialize(bytearray((folder / f"tower-{length}.jaxexport").read_bytes()))
    return np.asarray(program.call(dict(np.load(folder / "weights.npz")), tokens, mask))


def test_stablehlo_of_the_student(finished: Path, tmp_path: Path):
    pytest.importorskip("flatbuffers", reason="pip install '.[export]'")
    out = export(finished, tmp_path / "out", "--format", "stablehlo")
    wanted = scalingnote_jax.load(finished).encode_queries(QUERIES)
    np.testing.assert_allclose(call_programs(out, QUERIES), wanted, atol=1e-4)
    about = json.loads((out / "contract.json").read_text())
    assert about["format"] == "stablehlo"
    assert about["towers"]["student query"]["max_tokens"] == 16
    assert about["programs"] == {"8": "tower-8.jaxexport", "16": "tower-16.jaxexport"}


@pytest.mark.slow
def test_stablehlo_of_a_student_with_adapters(finished: Path, tiny_config: Path, tmp_path: Path):
    pytest.importorskip("flatbuffers", reason="pip install '.[export]'")
    work = Path(shutil.copytree(finished, tmp_path / "here" / "work"))
    words = ["--distill.student.lora.rank=2", "--distill.duration=3 steps", "--overwrite"]
    assert main(["distill", str(tiny_config), f"--workdir={work}", *words]) == 0
    out = export(work, tmp_path / "there" / "out", "--format=stablehlo")
    assert not [name for name in np.load(out / "weights.npz") if "lora" in name]
    wanted = scalingnote_jax.load(work).encode_queries(QUERIES)
    np.testing.assert_allclose(call_programs(out, QUERIES), wanted, atol=1e-4)
    card = (out / "README.md").read_text()
    assert "Not evaluated" in card  # what eval/ holds is of the student before
    assert "--distill.student.lora.rank=2" in card


def test_a_hugging_face_folder_of_the_teacher(finished: Path, tmp_path: Path):
    out = export(finished, tmp_path / "out", "--format=hf", "--tower=teacher", "--dtype=bfloat16")
    assert {p.name for p in out.iterdir()} == {
        "README.md",
        "config.json",
        "contract.json",
        "model.safetensors",
        "projection.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 2


def test_the_card_tells_what_the_run_knows(finished: Path, tmp_path: Path):
    out = export(finished, tmp_path / "out", "--format=sentence-transformers", "--side=both")
    card = (out / "README.md").read_text()
    metrics = json.loads((finished / "eval" / "metrics.json").read_text())
    for row in metrics["rows"]:
        numbers = " | ".join(f"{value:.3f}" for value in row["metrics"].values())
        assert f"| {row['system']} | {row['search']} | 20 | {numbers} |" in card
    assert "library_name: sentence-transformers" in card
    assert "license: unknown" in card
    assert '| student query | `"{text}"` | 16 | 0 | mean | 16 | 16 |' in card
    assert str(finished) not in card
    assert str(Path.home()) not in card


def test_sentence_transformers_gives_the_vectors_of_the_run(finished: Path, tmp_path: Path):
    library = pytest.importorskip("sentence_transformers", reason="pip install '.[bench]'")
    model = scalingnote_jax.load(finished)
    out = export(finished, tmp_path / "out", "--format=sentence-transformers", "--side=both")
    theirs = library.SentenceTransformer(str(out))
    wanted = model.encode_queries(QUERIES)
    np.testing.assert_allclose(theirs.encode_query(QUERIES), wanted, atol=1e-4)
    wanted = model.encode_documents(DOCUMENTS)
    np.testing.assert_allclose(theirs.encode_document(DOCUMENTS), wanted, atol=1e-4)


def error_of(words: list[str], capsys) -> str:
    """The one line that a failing command prints."""
    capsys.readouterr()
    assert main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--format=pickle"], "invalid choice: 'pickle'"),
        ([], "--format"),
        (["--format=hf", "--side=both"], "one tower in a folder of this format"),
        (["--format=hf", "--side=doc"], "the student has no document tower"),
        (["--format=stablehlo", "--dtype=bfloat16"], "float32 for stablehlo"),
    ],
)
def test_wrong_words(words: list[str], says: str, finished: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert says in error_of(["export", str(finished), str(out), *words], capsys)
    assert not out.exists()


def test_a_workdir_without_what_is_asked_for(finished: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    line = error_of(["export", str(tmp_path / "none"), str(out), "--format=hf"], capsys)
    assert "no config.json" in line
    (tmp_path / "work").mkdir()
    shutil.copy(finished / "config.json", tmp_path / "work")
    line = error_of(["export", str(tmp_path / "work"), str(out), "--format=hf"], capsys)
    assert "run `scalingnote distill` first" in line
    assert not out.exists()


def test_what_is_there_is_replaced_only_if_it_is_an_export(finished: Path, tmp_path: Path, capsys):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    words = ["--format=hf", "--overwrite"]
    assert "not an export" in error_of(["export", str(finished), str(mine), *words], capsys)
    assert (mine / "thesis.txt").read_text() == "years of work"
    out = export(finished, tmp_path / "here" / "out", "--format=hf", "--tower=teacher")
    line = error_of(["export", str(finished), str(out), "--format=hf"], capsys)
    assert "is there already; expected a new folder; add --overwrite" in line
    export(finished, out, *words)
    assert "student query" in json.loads((out / "contract.json").read_text())["towers"]


def test_nothing_half_written_stays(finished: Path, tmp_path: Path, capsys):
    work = Path(shutil.copytree(finished, tmp_path / "work"))
    config = json.loads((work / "config.json").read_text())
    config["teacher"]["doc"]["shape"]["score_cap"] = 3.0  # no Llama caps its scores
    (work / "config.json").write_text(json.dumps(config))
    out = tmp_path / "here" / "out"
    line = error_of(["export", str(work), str(out), "--format=hf", "--tower=teacher"], capsys)
    assert "score_cap 3.0 beside what makes it a llama" in line
    assert not list(out.parent.iterdir())
