"""`scalingnote export` as people use it: what lies in the folders, that they give the vectors of
the run, and bad input.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from run_parts import towers

import scalingnote_jax
from scalingnote_jax.cli import main
from scalingnote_jax.config import Config, replace
from scalingnote_jax.config.load import apply_overrides
from scalingnote_jax.config.values import field_values, read_workdir_config
from scalingnote_jax.export.card import Origin, _settings
from scalingnote_jax.export.exported_tower import open_tower
from scalingnote_jax.text.tokenizer import load_tokenizer
from scalingnote_jax.workflow.workdir import Workdir

TOWERS = ("teacher.query", "teacher.doc", "distill.student")
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


@pytest.fixture(scope="module")
def cut(finished: Path, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose vectors are cut to 8 of their 16 numbers."""
    work = Path(shutil.copytree(finished, tmp_path_factory.mktemp("cut") / "work"))
    words = [str(tiny_config), f"--workdir={work}", "--encode.dim=8", "--overwrite"]
    assert main(["run", *words]) == 0
    return work


@pytest.mark.slow
def test_exported_vectors_are_those_that_are_searched_with(cut: Path, tmp_path: Path):
    wanted = scalingnote_jax.load(cut).encode_queries(QUERIES)
    assert wanted.shape == (3, 8)
    pytest.importorskip("flatbuffers", reason="pip install '.[export]'")
    out = export(cut, tmp_path / "a" / "out", "--format=stablehlo")
    np.testing.assert_allclose(call_programs(out, QUERIES), wanted, atol=1e-4)
    assert json.loads((out / "contract.json").read_text())["towers"]["student query"]["dim"] == 8
    assert "| mean | 8 | 8 |" in (out / "README.md").read_text()
    library = pytest.importorskip("sentence_transformers", reason="pip install '.[bench]'")
    out = export(cut, tmp_path / "b" / "out", "--format=sentence-transformers", "--side=both")
    theirs = library.SentenceTransformer(str(out), device="cpu")
    np.testing.assert_allclose(theirs.encode_query(QUERIES), wanted, atol=1e-4)
    wanted = scalingnote_jax.load(cut).encode_documents(DOCUMENTS)
    np.testing.assert_allclose(theirs.encode_document(DOCUMENTS), wanted, atol=1e-4)


def test_a_tower_without_projection_is_cut_by_one(finished: Path, tmp_path: Path):
    config, paths = read_workdir_config(finished), Workdir(finished)
    trained = towers(config, paths).get("untrained", "query")
    plain = replace(trained, cfg=replace(trained.cfg, projection=0))
    whole, cut = (open_tower(plain, replace(config.encode, dim=dim)) for dim in (0, 8))
    assert whole.projection is None
    np.testing.assert_array_equal(cut.projection, np.eye(32)[:, :8])
    assert (whole.definition.dim, cut.definition.dim) == (32, 8)


def test_files_can_be_read_by_whom_new_files_can(finished: Path, tmp_path: Path):
    old = os.umask(0o027)
    try:
        out = export(finished, tmp_path / "out", "--format=hf")
    finally:
        os.umask(old)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()}
    assert set(modes.values()) == {0o640}
    assert {"model.safetensors", "projection.safetensors", "README.md"} <= set(modes)


def test_a_call_that_names_no_side_is_a_query(finished: Path, tmp_path: Path):
    library = pytest.importorskip("sentence_transformers", reason="pip install '.[bench]'")
    words = ["--format=sentence-transformers", "--side=both"]
    theirs = library.SentenceTransformer(str(export(finished, tmp_path / "out", *words)))
    np.testing.assert_array_equal(theirs.encode(QUERIES), theirs.encode_query(QUERIES))


@pytest.mark.slow
def test_the_card_s_settings_can_be_pasted(finished: Path, tmp_path: Path):
    card = (export(finished, tmp_path / "out", "--format=hf") / "README.md").read_text()
    (block,) = re.findall(r"```sh\n(.*?)\n```", card, re.DOTALL)
    lines = [line for line in block.splitlines() if not line.startswith("#")]
    words = [word for line in lines for word in shlex.split(line)]
    assert len(words) == len(lines) > 10
    assert "--train.duration=20 steps" in words
    config = apply_overrides(Config("tiny"), words)
    ours, theirs = field_values(config), field_values(read_workdir_config(finished))
    paths = {"data.path", *(f"{t}.tokenizer" for t in TOWERS)}  # they keep their last part
    said = set(re.findall(r"^# in the config file: (\S+) =", block, re.MULTILINE))
    assert said == {n for n, value in theirs.items() if ".shape." in n and value is not None}
    differ = {name for name in theirs if ours.get(name) != theirs[name]} - said
    assert differ == paths
    assert {Path(theirs[name]).name for name in paths} == {ours[name] for name in paths}


def test_words_of_values_of_every_kind():
    settings = {
        "data.path": "/home/me/a b",
        "data.mixture": ("x=beir:/home/me/x", "/y"),
        "data.query_prompts": ("x=one, two: ",),
        "teacher.query.text.prompt": "it's\n{text}",
        "train.symmetric": False,
        "eval.systems": (),
        "teacher.query.shape.head_dim": 8,
    }
    assert _settings(Origin("n", settings)).splitlines() == [
        "```sh",
        "'--data.path=a b'",
        "--data.mixture=x=beir:x,y",
        "# in the config file: data.query_prompts = ('x=one, two: ',)",
        "'--teacher.query.text.prompt=it'\"'\"'s",
        "{text}'",
        "--train.symmetric=false",
        "--eval.systems=",
        "# in the config file: teacher.query.shape.head_dim = 8",
        "```",
    ]


def test_the_prompt_of_a_mixture_is_part_of_what_is_exported(finished: Path):
    config, paths = read_workdir_config(finished), Workdir(finished)
    trained = towers(config, paths).get("student", "query")
    assert open_tower(trained, config.encode, "Question: ").text.prompt == "Question: {text}"
