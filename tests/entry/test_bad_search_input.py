"""What may be wrong with runs, judgements, vectors and indexes ends `eval` or `search` with one
line and exit code 2, whatever the step that finds it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scalingnote_jax
from scalingnote_jax.cli import main
from scalingnote_jax.errors import UserError
from scalingnote_jax.retrieval.exact import exact_search

GOOD = "q0-1 Q0 d0-0 1 2.5 other\nq0-1 Q0 d1-0 2 1.5 other\n"


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A finished workdir that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "work"))


def error_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a failing command prints."""
    capsys.readouterr()
    assert main(words) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert err.count("scalingnote: ") == 1
    return err.strip().splitlines()[-1]


def change(manifest: Path, **fields: Any) -> None:
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | fields))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("q0-1 Q0 d2-0 2 0.5 other", "run.trec:3: the rank 2 again for query 'q0-1'"),
        ("q0-1 Q0 d0-0 3 0.5 other", "run.trec:3: the document 'd0-0' again"),
        ("q0-1 Q0 nobody 3 0.5 other", "run.trec:3: unknown document 'nobody'"),
        ("q99 Q0 d0-0 3 0.5 other", "run.trec:3: unknown query 'q99'"),
    ],
)
def test_a_run_file_is_refused_before_anything_is_encoded(
    copy: Path, tiny_config: Path, line: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy.parent / "run.trec"
    run.write_text(GOOD + line + "\n")
    old = (copy / "eval" / "metrics.json").read_bytes()
    words = ["eval", str(tiny_config), f"--workdir={copy}", "--overwrite", f"--eval.runs={run}"]
    assert says in error_of(words, capsys)
    assert (copy / "eval" / "metrics.json").read_bytes() == old
    assert not list(copy.glob("*.partial"))


def test_a_grade_that_is_no_whole_number_names_its_line(
    beir_folder: Path, tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (beir_folder / "qrels" / "test.tsv").open("a") as file:
        file.write("q0-1\td5-0\t0.5\n")
    words = ["data", str(tiny_config), f"--workdir={tmp_path / 'w'}", f"--data.path={beir_folder}"]
    assert re.search(r"test\.tsv:22: .*0\.5", error_of(words, capsys))


def other_scann(work: Path) -> None:
    change(work / "index" / "manifest.json", scann="1.0.0")


def empty_shard(work: Path) -> None:
    manifest = work / "embeddings" / "teacher-doc" / "manifest.json"
    shards = json.loads(manifest.read_text())["shards"]
    change(manifest, shards=[*shards, shards[0] | {"rows": 0}])


def other_width(work: Path) -> None:
    config = work / "config.json"
    encode = json.loads(config.read_text())["encode"]
    change(config, encode=encode | {"dim": 8})


@pytest.mark.parametrize(
    ("damage", "more", "says"),
    [
        (other_scann, [], "index: built by ScaNN 1.0.0; expected ScaNN"),
        (empty_shard, [], "rows is 0"),
        (other_width, [], "queries: vectors of 8 numbers; expected 16"),
        (lambda work: None, ["-k", "41"], "-k: 41; expected 1 to 40 documents"),
    ],
)
def test_search_refuses(
    copy: Path,
    damage: Callable[[Path], None],
    more: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(copy)
    assert says in error_of(["search", str(copy), "topic3", *more], capsys)


def test_vectors_that_are_no_numbers_are_refused_by_every_search(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searcher = scalingnote_jax.Searcher.open(finished)
    bad = searcher.model.encode_queries(["topic3", "topic4"])
    bad[1, 2] = np.nan
    said = "queries: vector 1 holds NaN or infinity"
    with pytest.raises(UserError, match=said):
        exact_search(bad, searcher.store.on_disk(), 3)
    monkeypatch.setattr(searcher.model, "encode_queries", lambda texts: bad)
    with pytest.raises(UserError, match=said):
        searcher.search(["topic3", "topic4"])
