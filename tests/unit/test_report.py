"""The report: self-contained, escaped, complete with whatever there is to show."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from scalingnote_jax.evaluate.plots import curve
from scalingnote_jax.evaluate.report import write_report

EVIL = "<script>alert('x')</script> & \"quotes\""
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags are balanced; collects text by tag, ids and addresses."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in self.open:
            self.texts.setdefault(tag, []).append(data)

    def text(self, tag: str) -> str:
        return " ".join("".join(self.texts.get(tag, [])).split())


def row(system: str, search: str, recall: float, **facts: Any) -> dict[str, Any]:
    metrics = {"Recall@10": recall, "nDCG@10": recall / 2}
    return {"system": system, "search": search, "queries": 1234, "metrics": metrics} | facts


ROWS = [
    row("bm25", "lexical", 0.5, query_ms_p50=1.5, query_ms_p99=2.5),
    row("untrained", "exact", 0.1, params_non_embedding=12_000_000),
    row(
        "teacher",
        "scann",
        0.8,
        params_non_embedding=12_000_000,
        query_ms_p50=9.0,
        query_ms_p99=12.0,
        **{"ann_recall@10": 0.99},
    ),
    row(
        "student",
        "scann",
        0.76,
        params_non_embedding=1_000_000,
        query_ms_p50=2.26,
        query_ms_p99=3.0,
        query_tower=EVIL,
        **{"ann_recall@10": 0.985},
    ),
]
METRICS = {
    "dataset": "pydocs",
    "rows": ROWS,
    "retention": {"Recall@10": 0.95, "nDCG@10": 1.02},
}
RECORDS: list[dict[str, Any]] = [
    {"step": 10 * i, "loss": 3.0 / i, "accuracy": i / 20} for i in range(1, 10)
]
CURVES = {"train": RECORDS, "distill": [{"step": 5, "loss": 1.0}]}
EXAMPLES = [
    {
        "query": f"query {EVIL}",
        "relevant": ["d2"],
        "results": {
            "bm25": [],
            "teacher": [("d2", "second", 0.9), ("d1", "first", 0.8)],
            "student": [("d1", EVIL, 0.9), ("d2", "word " * 500, 0.8), ("d3", "third", 0.7)],
        },
    }
]


def write(
    path: Path,
    metrics: dict[str, Any] = METRICS,
    curves: dict[str, Any] = CURVES,
    examples: list[dict[str, Any]] = EXAMPLES,
    config: dict[str, Any] | None = None,
    command: str | None = "scalingnote run x.py",
) -> str:
    config = {"name": "quickstart", "eval": {"split": "test"}} if config is None else config
    write_report(path / "report.html", metrics, curves, examples, config, command)
    return (path / "report.html").read_text(encoding="utf-8")


def test_the_lead_states_the_result_in_plain_words(tmp_path: Path) -> None:
    page = Page(write(tmp_path))
    assert page.text("h1") == "quickstart"
    assert (
        "The student keeps 95.0 % of the teacher's Recall@10 with 12 times fewer non-embedding "
        "parameters; half of the queries are answered within 2.3 ms." in page.text("header")
    )
    assert "pydocs · 1,234 test queries" in page.text("header")


def test_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    text = write(tmp_path)
    page = Page(text)
    assert "://" not in text
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(page.tags)
    assert all(address.startswith("#") for address in page.addresses)
    assert "url(" not in re.sub(r"url\(#", "", text)
    assert len(page.ids) == len(set(page.ids))
    assert "prefers-color-scheme: dark" in text


def test_everything_is_escaped(tmp_path: Path) -> None:
    config = {"name": EVIL, "path": EVIL, "eval": {"split": EVIL}}
    metrics = METRICS | {"dataset": EVIL}
    text = write(tmp_path, metrics=metrics, config=config, command=f"scalingnote run '{EVIL}'")
    assert "<script" not in text
    page = Page(text)
    assert page.text("h1") == EVIL
    assert f"query {EVIL}" in page.text("h3")
    assert EVIL in page.text("li")
    assert EVIL in page.text("th")
    assert f"scalingnote run '{EVIL}'" in page.text("code")


def test_table_has_every_number_and_the_best_in_bold(tmp_path: Path) -> None:
    text = write(tmp_path)
    cells = [re.findall(r"<td.*?</td>", r) for r in re.findall(r"<tr.*?</tr>", text, re.S)[1:]]
    plain = [[re.sub(r"<[^>]*>", "", cell) for cell in line] for line in cells]
    assert plain == [
        ["0.500", "0.250", "–", "1.5", "2.5", "–"],
        ["0.100", "0.050", "–", "–", "–", "12.0"],
        ["0.800", "0.400", "0.990", "9.0", "12.0", "12.0"],
        ["0.760", "0.380", "0.985", "2.3", "3.0", "1.0"],
    ]
    assert re.findall(r"<b>(.*?)</b>", text) == ["0.800", "0.400"]


def test_retention_bars_have_the_right_length(tmp_path: Path) -> None:
    text = write(tmp_path)
    widths = [float(w) for w in re.findall(r"<i style=\"width:([\d.]+)%", text)]
    assert widths == pytest.approx([100 * 0.95 / 1.02, 100.0], abs=0.01)
    assert re.findall(r'class="value">([\d.]+) %', text) == ["95.0", "102.0"]


def test_examples_mark_what_is_right_in_words(tmp_path: Path) -> None:
    text = write(tmp_path)
    items = re.findall(r"<li.*?</li>", text, re.S)
    assert ["✓ right" in item for item in items] == [False, True, False]
    assert all(len(re.sub(r"<[^>]*>", "", item)) < 300 for item in items)
    found = Page(text).text("article").replace("\xa0", " ")
    assert "BM25 not in the first 5 · Teacher at 1 · Student at 2" in found


def test_three_curves_that_follow_the_theme(tmp_path: Path) -> None:
    page = Page(write(tmp_path))
    assert page.tags.count("svg") == 3
    assert page.texts["figcaption"] == [
        "Teacher: contrastive loss",
        "Teacher: in-batch accuracy",
        "Student: distillation loss",
    ]
    svg = curve(RECORDS, "loss", "a <title>")
    assert "var(--accent)" in svg
    assert "var(--muted)" in svg
    assert 'aria-label="a &lt;title&gt;"' in svg
    # Every colour comes from the page: a black text would vanish at night.
    assert not re.search(r"(fill|stroke): ?(#|black|white)", svg)
    assert curve(RECORDS, "loss", "a <title>") == svg


def test_records_without_the_quantity_are_left_out() -> None:
    broken: list[dict[str, Any]] = [
        {"step": 1},
        {"step": 2, "loss": float("nan")},
        {"loss": 1.0},
        {"step": 3, "loss": None},
    ]
    assert curve(broken, "loss", "t") == ""
    assert curve(broken + RECORDS, "loss", "t") == curve(RECORDS, "loss", "t")


def test_little_to_show_is_no_error(tmp_path: Path) -> None:
    only_bm25 = {"dataset": "d", "rows": ROWS[:1], "retention": {}}
    text = write(tmp_path, metrics=only_bm25, curves={"train": []}, examples=[], config={})
    page = Page(text)
    assert "The best Recall@10 is 0.500, by BM25 (word matching)." in page.text("header")
    assert page.texts["h2"] == ["Results", "How it was made"]
    assert "<b>" not in text  # best of one is nothing to boast of
    nothing = {"dataset": "d", "rows": [], "retention": {}}
    page = Page(write(tmp_path, metrics=nothing, curves={}, examples=[], config={}))
    assert "Nothing was evaluated." in page.text("header")


def test_rows_without_costs_and_a_larger_student(tmp_path: Path) -> None:
    rows = [row("teacher", "exact", 0.8), row("student", "exact", 0.4)]
    metrics = {"dataset": "d", "rows": rows, "retention": {"nDCG@10": 0.5}}
    lead = "The student keeps 50.0 % of the teacher's nDCG@10."
    assert lead in Page(write(tmp_path, metrics=metrics)).text("header")
    rows[0]["params_non_embedding"], rows[1]["params_non_embedding"] = 1_000_000, 2_000_000
    assert lead in Page(write(tmp_path, metrics=metrics)).text("header")


def test_lone_surrogates_and_dollars_survive(tmp_path: Path) -> None:
    example = {"query": "price $name \ud800", "relevant": [], "results": {"student": []}}
    page = Page(write(tmp_path, examples=[example]))
    assert page.texts["h3"] == ["price $name ?"]
    assert "Nothing found." in page.text("article")


def test_written_as_a_whole_with_this_command_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/opt/venv/bin/scalingnote", "run", "my config.py"])
    text = write(tmp_path, command=None)
    assert "scalingnote run &#x27;my config.py&#x27;" in text
    assert "/opt/venv" not in text
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
