"""The command's words: what is refused, how fast, and that nothing is left behind."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import scalingnote_jax
from scalingnote_jax.cli import HELP, main

ROOT = Path(__file__).parents[2]
MOST_SECONDS = 3.0


def error_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("--seed=-1", "--seed: -1; expected from 0 to 4294967295"),
        ("--data.path=/nope", "--data.path: '/nope' is not a folder"),
        ("--data.max_documents=-1", "--data.max_documents: -1; expected 0 or more"),
        ("--teacher.doc.num_layers=3", "expected 0 (all) to 2, the layers of the model"),
        ("--teacher.query.tokenizer=/nope", "--teacher.query.tokenizer: '/nope': no such file"),
        ("--train.optim.learning_rate=nan", "nan; expected a number, above 0; the default is"),
        ("--train.batch_size=6", "6 rows over 8 devices"),
        ("--mine.rounds=teacher", "--mine.rounds: teacher; expected none, judged or bm25"),
        ("--distill.student.weights=hf", "--distill.student.weights: 'hf': no such file"),
        ("--distill.w_mse=-1", "--distill.w_mse: -1.0; expected 0 or more"),
        ("--refine.duration=soon", "--refine.duration: 'soon'; expected '200 steps'"),
        ("--encode.dim=17", "--encode.dim: 17; expected 0 (all) to 16"),
        ("--index.reorder=7", "--index.reorder: 7, and --index.target_recall is 0.95; expected no"),
        ("--index.search_percent=0", "--index.search_percent: 0.0; expected above 0 to 100"),
        ("--eval.metrics=Recal@5", "--eval.metrics: ('Recal@5',); expected a list, each Recall@K"),
        ("--eval.split=dl19", "--eval.split: 'dl19'; expected one of train, dev, test; add it:"),
        ("--data.more_splits=dl19", "dl19.tsv: no such file"),
        ("--eval.runs=/nope", "--eval.runs: no file /nope"),
        ("--mesh.tensor=0", "--mesh.tensor: 0; expected 1 or more, or -1"),
    ],
)
def test_a_wrong_value_leaves_no_folder(
    tiny_config: Path, tmp_path: Path, word: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "work"
    assert says in error_of(["run", str(tiny_config), f"--workdir={workdir}", word], capsys)
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("--lr=1", "no such field; expected a field of the config; `scalingnote config` lists"),
        ("--train.lr=1", "`scalingnote config train` lists the fields"),
        ("--train.bach_size=8", "did you mean --train.batch_size?"),
        ("--temperature=1", "did you mean one of --train.temperature, --refine.temperature?"),
        ("--train=1", "a section; expected --train.FIELD=value"),
        ("--eval.systems=bm25,techer", "cannot take 'bm25,techer'; expected a list, each one of"),
        ("--eval.systems=bm25,techer", "did you mean 'teacher'?"),
        ("--distill.queries=all", "separate by commas: --distill.queries=train,unlabelled"),
        ("--train.batch_size=many", "expected an integer, 1 or more; the default is 8"),
        ("--eval.split=tset", "did you mean 'test'?"),
    ],
)
def test_suggestions(
    tiny_config: Path, word: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in error_of(["run", str(tiny_config), word], capsys)


def test_verbs_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean `scalingnote distill`?" in error_of(["distil"], capsys)
    line = error_of(["frobnicate"], capsys)
    assert "did you mean" not in line
    assert "expected one of run, data, train" in line
    assert "no verb 'frob'" in error_of(["help", "frob"], capsys)


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"scalingnote {scalingnote_jax.__version__}\n"
    for words in ([], ["help"], ["--help"]):
        assert main(words) == 0
        text = capsys.readouterr().out
        assert all(f"\n  {verb:<8} " in text for verb in HELP)
    with pytest.raises(SystemExit) as ended:
        main(["help", "export"])
    assert ended.value.code == 0
    assert "usage: scalingnote export" in capsys.readouterr().out


def test_fields_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "index", "--config=quickstart", "--index.tuning_builds=3"]) == 0
    out = capsys.readouterr().out
    assert "--index.exact_below = 1000\n    (an integer, 0 or more)\n    fewer vectors" in out
    assert "--index.tuning_builds = 3\n" in out
    assert "an override without a config" in error_of(["config", "--index.reorder=7"], capsys)


def test_a_config_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(["run", "quickstrat"], capsys)
    assert "or a name: beir, " in line
    assert line.endswith("did you mean quickstart?")
    assert "sweep_temperature" in error_of(["sweep", "nothing"], capsys)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("--train.temperature=0", "--train.temperature: 0.0; expected above 0"),
        ("--data.packages=none_such", "--data.packages"),
    ],
)
def test_a_refusal_is_quick(tmp_path: Path, word: str, says: str) -> None:
    """In a process of its own, as people see it: what is slow to import has not been."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "scalingnote_jax", "run", "quickstart", word],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2
    assert done.stderr.startswith(f"scalingnote: {says}")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < MOST_SECONDS


def test_loading_a_config_imports_nothing_heavy() -> None:
    code = (
        "import sys; from scalingnote_jax.config.load import load_config;"
        "load_config('quickstart', ['--train.batch_size=8']);"
        "print([m for m in ('jax', 'flax', 'transformers', 'numpy') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert out == "[]\n"


def test_queries_are_typed_in_where_none_is_given(finished: Path) -> None:
    pytest.importorskip("scann")
    words = [sys.executable, "-m", "scalingnote_jax", "search", str(finished), "-k", "1"]
    typed = b"topic3\n\n\xff bad\ntopic7\n"
    done = subprocess.run(words, input=typed, capture_output=True, check=True)
    lines = done.stdout.decode().splitlines()
    assert [lines[0], lines[2]] == ["topic3", "topic7"]
    assert len(lines) == 4
    error = [x for x in done.stderr.decode().splitlines() if x.startswith("scalingnote: ")]
    assert len(error) == 1
    assert "half of a surrogate pair" in error[0]
