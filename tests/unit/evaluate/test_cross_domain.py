"""Further collections of an evaluation: what is refused before anything is trained, numbers by
hand, and what a finished run says of a copy of its own collection: the same.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from scalingnote_jax.cli import main
from scalingnote_jax.config import Config, DataConfig, EvalConfig
from scalingnote_jax.errors import UserError
from scalingnote_jax.evaluate.compare import compare
from scalingnote_jax.evaluate.cross_domain import Outcome, check_collections, folders, lines, matrix
from scalingnote_jax.startup import check_evaluation
from scalingnote_jax.systems import systems_of
from tests.conftest import make_beir


def config(own: Path, *collections: Any, **changes: Any) -> Config:
    data = DataConfig(source="beir", path=str(own))
    return Config(
        "x", data=data, eval=EvalConfig(collections=tuple(map(str, collections)), **changes)
    )


def folders_of(config: Config) -> dict[str, str]:
    return folders(config.eval, config.data)


def check(config: Config) -> None:
    found = systems_of(config.stages, config.eval.systems)
    check_collections(config.eval, config.data, found)


def test_names_are_given_or_the_folders(tmp_path: Path) -> None:
    own, other = make_beir(tmp_path / "own", 1), make_beir(tmp_path / "other", 1)
    odd = make_beir(tmp_path / "a=b", 1)
    found = folders_of(config(own, other, f"old={other}", odd, own, f"{other}/../own"))
    assert found == {"other": str(other), "old": str(other), "a=b": str(odd)}
    assert folders_of(config(own)) == {}


def test_bad_entries_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    own, other = make_beir(tmp_path / "own", 1), make_beir(tmp_path / "other", 1)
    empty, untested = tmp_path / "empty", make_beir(tmp_path / "untested", 1)
    empty.mkdir()
    (untested / "qrels" / "test.tsv").unlink()
    cases = [
        (("/no/such",), {}, r"--eval\.collections: '/no/such' is not a folder"),
        ((f"={other}",), {}, r"--eval\.collections: '=.*other'; expected a path, or NAME=path"),
        ((other, f"other={own}/../untested"), {}, "two collections with the name 'other'"),
        ((f"own={other}",), {}, "two collections with the name 'own'; .*; write NAME="),
        ((empty,), {}, r"--eval\.collections, empty: .*corpus\.jsonl: no such file"),
        ((untested,), {}, r"untested has no judgements in qrels/test\.tsv"),
        ((other,), {"systems": ("untrained",)}, r"--eval\.systems: untrained; expected a trained"),
    ]
    for entries, changes, message in cases:
        bad = config(own, *entries, **changes)
        with pytest.raises(UserError, match=message):
            check(bad)
    with pytest.raises(UserError, match="not a folder"):
        check_evaluation(config(own, "/no/such"))
    check(config(own, untested, split="dev"))


def values(*of_queries: float) -> dict[str, dict[str, float]]:
    return {f"q{i}": {"MRR@10": v, "Recall@1": 0.0} for i, v in enumerate(of_queries)}


def test_rows_by_hand() -> None:
    own = Outcome("own", "f", {"bm25": values(0.0, 1.0), "teacher": values(1.0, 0.5)})
    far = Outcome("far", "g", {"teacher": values(0.8, 0.4, 0.4), "student": values(0.6, 0.3, 0.3)})
    rows = matrix([own, far], ["MRR@10", "Recall@1"], seed=0)
    assert [(r["trained_on"], r["tested_on"], r["system"], r["queries"]) for r in rows] == [
        (None, "own", "bm25", 2),
        ("own", "own", "teacher", 2),
        ("own", "far", "teacher", 3),
        ("own", "far", "student", 3),
    ]
    assert [r["metrics"]["MRR@10"] for r in rows] == pytest.approx([0.5, 0.75, 1.6 / 3, 0.4])
    assert [r["fingerprint"] for r in rows] == ["f", "f", "g", "g"]
    assert rows[0]["intervals"] == {"MRR@10": [0.0, 1.0], "Recall@1": [0.0, 0.0]}
    # Three quarters for each query, so on all resamples; no ratio to a teacher at 0.
    assert rows[3]["retention"] == {"MRR@10": pytest.approx(0.75)}
    assert rows[3]["retention_intervals"] == {"MRR@10": pytest.approx([0.75, 0.75])}
    assert all("retention" not in row for row in rows[:3])
    assert list(lines([own]))[1] == {
        "collection": "own",
        "system": "bm25",
        "query": "q1",
        "MRR@10": 1.0,
        "Recall@1": 0.0,
    }


@pytest.fixture(scope="module")
def crossed(
    finished: Path, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """The tiny run, evaluated on a copy of its own collection and on another one too; and the words
    that do it again.
    """
    folder = tmp_path_factory.mktemp("crossed")
    workdir = shutil.copytree(finished, folder / "work")
    copy = shutil.copytree(tiny_config.parent / "beir", folder / "copy")
    other = make_beir(folder / "other", topics=6, seed=1)
    words = ["eval", str(tiny_config), f"--workdir={workdir}", "--overwrite"]
    words.append(f"--eval.collections={copy},far={other}")
    assert main(words) == 0
    return workdir, words


def of(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    [row] = [row for row in rows if wanted.items() <= row.items()]
    return row


@pytest.mark.slow
def test_a_copy_of_the_own_collection_says_the_same(crossed: tuple[Path, list[str]]) -> None:
    metrics = json.loads((crossed[0] / "eval" / "metrics.json").read_text())
    rows = metrics["collections"]
    systems = ("bm25", "teacher", "student")
    expected = [(b, s) for b in ("beir", "copy", "far") for s in systems]
    assert [(row["tested_on"], row["system"]) for row in rows] == expected
    assert {row["trained_on"] for row in rows if row["system"] != "bm25"} == {"beir"}
    for system, search in zip(systems, ("lexical", "exact", "exact"), strict=True):
        alone = of(metrics["rows"], system=system, search=search)
        for name in ("beir", "copy"):
            row = of(rows, system=system, tested_on=name)
            assert row["metrics"] == pytest.approx(alone["metrics"])
            assert row["queries"] == alone["queries"] == 20
            assert row["fingerprint"] == metrics["fingerprint"]
            for metric, interval in alone["intervals"].items():
                assert row["intervals"][metric] == pytest.approx(interval)
    far = of(rows, system="student", tested_on="far")
    assert far["queries"] == 6
    assert far["fingerprint"] != metrics["fingerprint"]
    teacher = of(rows, system="teacher", tested_on="far")["metrics"]
    assert far["retention"]["MRR@10"] == pytest.approx(far["metrics"]["MRR@10"] / teacher["MRR@10"])
    per_query = (crossed[0] / "eval" / "collections.jsonl").read_text().splitlines()
    assert len(per_query) == 3 * (20 + 20 + 6)
    assert "Other collections" in (crossed[0] / "report.html").read_text()


@pytest.mark.slow
def test_only_what_changed_is_made_again(
    crossed: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    workdir, words = crossed
    words = [word for word in words if word != "--overwrite"]
    assert main(words) == 0
    assert "eval: done already" in capsys.readouterr().err
    manifests = {
        name: workdir / "collections" / name / "embeddings" / "teacher-doc" / "manifest.json"
        for name in ("copy", "far")
    }
    before = {name: path.stat().st_mtime_ns for name, path in manifests.items()}
    with (workdir.parent / "other" / "corpus.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "new", "title": "", "text": "amber amber"}) + "\n")
    assert main(words) == 0
    after = {name: path.stat().st_mtime_ns for name, path in manifests.items()}
    assert after["copy"] == before["copy"]
    assert after["far"] != before["far"]
    assert json.loads(manifests["far"].read_text())["count"] == 13
    assert "trained on × tested on" in capsys.readouterr().out


@pytest.mark.slow
def test_what_it_leaves_can_be_compared(crossed: tuple[Path, list[str]], finished: Path) -> None:
    found = compare([str(finished), str(crossed[0])], "nDCG@10")
    # The copy is the collection itself under another name: by content they are one.
    assert {row["tested_on"] for row in found["collections"]} == {"beir", "far"}
    assert {pair["collection"] for pair in found["comparisons"]} == {"beir"}
    same = [c for c in found["comparisons"] if c["a"].split(": ")[1] == c["b"].split(": ")[1]]
    assert [(pair["difference"], pair["p"]) for pair in same] == [(0.0, 1.0)] * len(same)
