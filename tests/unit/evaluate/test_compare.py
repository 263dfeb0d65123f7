"""Workdirs side by side: numbers by hand, and every reason for which they cannot be compared."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_sample import Page

from scalingnote_jax.cli import main
from scalingnote_jax.errors import UserError
from scalingnote_jax.evaluate.compare import compare
from scalingnote_jax.evaluate.report import write_comparison
from scalingnote_jax.hashing import file_hash
from scalingnote_jax.workflow.workdir import mark_done

METRIC = "nDCG@10"
Tested = dict[str, dict[str, list[float]]]  # collection → system → the metric of each query

BM25 = [0.5, 0.5, 0.0, 0.0]
ON_A: Tested = {
    "a": {"bm25": BM25, "teacher": [1.0, 0.9, 0.8, 0.5], "student": [0.9, 0.8, 0.7, 0.3]},
    "b": {"bm25": [0.6, 0.2], "teacher": [0.5, 0.5], "student": [0.4, 0.4]},
}
ON_B: Tested = {
    "b": {"bm25": [0.6, 0.2], "student": [0.9, 0.7]},
    "a": {"bm25": BM25, "student": [0.1, 0.2, 0.6, 0.4]},
}


def finished(folder: Path, tested: Tested, **changes: Any) -> Path:
    """A workdir with an evaluation of that; the first collection is its own. Queries of a
    collection are called by it and numbered from `changes["start"]`.
    """
    own = next(iter(tested))
    rows = [
        {
            "trained_on": None if system == "bm25" else own,
            "tested_on": name,
            "fingerprint": changes.get("fingerprints", {}).get(name, f"content of {name}"),
            "system": system,
            "queries": len(values),
            "metrics": {METRIC: float(np.mean(values))},
            "intervals": {METRIC: [float(np.mean(values)) - 0.1, float(np.mean(values)) + 0.1]},
        }
        for name, systems in tested.items()
        for system, values in systems.items()
    ]
    lines = [
        {"collection": name, "system": system, "query": f"{name}{i}", METRIC: value}
        for name, systems in tested.items()
        for system, values in systems.items()
        for i, value in enumerate(values, changes.get("start", 0))
    ]
    metrics: dict[str, Any] = {
        "dataset": own,
        "fingerprint": rows[0]["fingerprint"] if rows else "",
    }
    eval_dir = folder / "eval"
    eval_dir.mkdir(parents=True)
    if len(tested) > 1:
        metrics |= {"rows": [], "collections": rows}
        name = "collections.jsonl"
    else:
        searches = {"bm25": "lexical"}
        metrics["rows"] = [row | {"search": searches.get(row["system"], "exact")} for row in rows]
        lines = [line | {"search": searches.get(line["system"], "exact")} for line in lines]
        name = "per_query.jsonl"
    (eval_dir / "metrics.json").write_text(json.dumps(metrics))
    (eval_dir / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    mark_done(eval_dir, "inputs", file_hash(eval_dir / "metrics.json"))
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    return [str(finished(tmp_path / "A", ON_A)), str(finished(tmp_path / "B", ON_B))]


def test_matrix_and_differences_by_hand(pair: list[str]) -> None:
    found = compare(pair, METRIC)
    values = {
        (r["system"], r["trained_on"], r["tested_on"]): r["metrics"][METRIC]
        for r in found["collections"]
    }
    assert values == {
        ("bm25", None, "a"): 0.25,
        ("bm25", None, "b"): 0.4,
        ("teacher", "a", "a"): pytest.approx(0.8),
        ("teacher", "a", "b"): 0.5,
        ("student", "a", "a"): pytest.approx(0.675),
        ("student", "a", "b"): 0.4,
        ("student", "b", "b"): pytest.approx(0.8),
        ("student", "b", "a"): pytest.approx(0.325),
    }
    kept = {
        r["tested_on"]: r["retention"][METRIC] for r in found["collections"] if "retention" in r
    }
    assert kept == {"a": pytest.approx(0.675 / 0.8), "b": pytest.approx(0.4 / 0.5)}
    a, b = pair
    on_a = [c for c in found["comparisons"] if c["collection"] == "a"]
    assert [(c["a"], c["b"]) for c in on_a] == [
        (f"{a}: teacher", f"{b}: student"),
        (f"{a}: student", f"{b}: student"),
    ]
    # Student − student: .8 .6 .1 −.1. Of 16 sign patterns 6 have a sum as large: none turned, the
    # last, the last two, and their mirror images. Teacher − student: .9 .7 .2 .1, only 2.
    assert [c["difference"] for c in on_a] == pytest.approx([0.475, 0.35])
    assert [c["p"] for c in on_a] == pytest.approx([2 / 16, 6 / 16], abs=0.02)
    # Holm: the smaller one twice, the larger one once.
    assert on_a[0]["p_holm"] == pytest.approx(2 * on_a[0]["p"])
    assert on_a[1]["p_holm"] == pytest.approx(on_a[1]["p"])


def test_names_do_not_matter_and_content_does(tmp_path: Path) -> None:
    """One calls it "b", the other "old"; a workdir that was tested on its own alone joins them."""
    first = finished(tmp_path / "first", {"b": ON_B["b"]})
    content = {"old": "content of b"}
    tested = {"old": {"bm25": [0.6, 0.2], "student": [0.5, 0.5]}, "a": ON_A["a"]}
    second = finished(tmp_path / "second", tested, fingerprints=content)
    # The same queries have the same ids in both.
    lines = second / "eval" / "collections.jsonl"
    lines.write_text(lines.read_text().replace('"old0"', '"b0"').replace('"old1"', '"b1"'))
    found = compare([str(first), str(second)], METRIC)
    assert [one["trained_on"] for one in found["workdirs"]] == ["b", "b"]
    assert {row["tested_on"] for row in found["collections"]} == {"a", "b"}
    [only] = found["comparisons"]
    assert (only["collection"], only["difference"]) == ("b", pytest.approx(0.3))


def test_the_command_prints_and_writes(
    pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "both.html"
    assert main(["compare", *pair, f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    assert "student │ a" in printed
    assert "0.675 ± 0.100" in printed
    first, second = pair
    assert (
        f"b: student of {first} − student of {second}: nDCG@10 -0.400, not significant (p"
        in printed
    )
    assert json.loads(out.with_suffix(".json").read_text()) == compare(pair, METRIC)
    assert sorted(p.name for p in out.parent.iterdir()) == ["both.html", "both.json"]
    text = out.read_text()
    page = Page(text)
    assert "://" not in text
    assert not {"link", "img", "iframe", "object"} & set(page.tags)
    assert "The best nDCG@10: a 0.800 (Teacher trained on a), b 0.800 (Student trained on b)." in (
        page.text("header")
    )
    assert page.texts["h2"] == [
        "Trained on × tested on",
        "Which differences are real",
        "How it was made",
    ]
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert set(page.values("aria-labelledby")) <= set(ids)
    own = [a["data-value"] for _, a in page.elements if a.get("class") == "own"]
    assert [float(value) for value in own] == pytest.approx([0.8, 0.675, 0.8, 0.84375])


def test_bm25_has_one_line_and_others_one_each(pair: list[str], tmp_path: Path) -> None:
    write_comparison(tmp_path / "x.html", compare(pair, METRIC), "scalingnote compare")
    text = (tmp_path / "x.html").read_text()
    words = " ".join(re.sub(r"<[^>]*>", " ", text).split())
    assert "nDCG@10: BM25 nDCG@10: BM25 Trained on a b – 0.250" in words
    assert f"nDCG@10: Student Trained on a b a {pair[0]} 0.675" in words
    assert f"Student of {pair[0]} − Student of {pair[1]} +0.350" in words
    assert "Judged queries: a 4, b 2." in words


def damaged(folder: Path, change: Callable[[str], str], name: str = "metrics.json") -> None:
    path = folder / "eval" / name
    path.write_text(change(path.read_text()))


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "not evaluated": (lambda p: p.mkdir(), r"B/eval: not there or not finished"),
    "changed": (
        lambda p: damaged(finished(p, ON_B), lambda text: text + " "),
        r"metrics\.json: not as it was written",
    ),
    "cut": (
        lambda p: damaged(
            finished(p, ON_B), lambda text: text[: text.rindex("{")], "collections.jsonl"
        ),
        r"collections\.jsonl: 3 queries of student on a; expected 4",
    ),
    "no lines": (
        lambda p: (finished(p, ON_B) / "eval" / "collections.jsonl").unlink(),
        r"collections\.jsonl: cannot be read",
    ),
    "other content": (
        lambda p: finished(p, ON_B, fingerprints={"a": "else"}),
        r"B: its collection 'a' is not the one that .*A has by this name",
    ),
    "other queries": (
        lambda p: finished(p, ON_B, start=1),
        r"B: 2 queries on b, not the 2 of .*A; expected the same queries",
    ),
    "other bm25": (
        lambda p: finished(p, ON_B | {"a": {"bm25": [0.5, 0.5, 0.0, 0.1]}}),
        r"B: BM25's nDCG@10 on a is 0\.2750, not 0\.2500 as before",
    ),
    "nothing shared": (
        lambda p: finished(p, {"c": ON_B["b"], "d": ON_B["a"]}),
        r"A: it was tested on no collection that another of them was tested on",
    ),
    "no system": (lambda p: finished(p, {"b": {}}), r"no row of a system that is compared"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_compared_is_one_line(tmp_path: Path, name: str) -> None:
    make, message = REFUSED[name]
    make(tmp_path / "B")
    with pytest.raises(UserError, match=message):
        compare([str(finished(tmp_path / "A", ON_A)), str(tmp_path / "B")], METRIC)


def test_an_older_evaluation_and_a_missing_metric(pair: list[str]) -> None:
    with pytest.raises(UserError, match=r"--metric: 'MAP'; expected what .*A has: nDCG@10"):
        compare(pair, "MAP")
    folder = Path(pair[1])
    damaged(folder, lambda text: text.replace('"fingerprint": "content of b", "rows"', '"rows"'))
    mark_done(folder / "eval", "inputs", file_hash(folder / "eval" / "metrics.json"))
    with pytest.raises(UserError, match="by an older version"):
        compare(pair, METRIC)


def test_bad_words_are_one_line(pair: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        ([pair[0]], "two or more workdirs"),
        ([pair[0], f"{pair[0]}/../A"], "name each once"),
        ([*pair, "--out=page.json"], "--out: page.json; expected a file with the ending .html"),
    ):
        assert main(["compare", *words]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
