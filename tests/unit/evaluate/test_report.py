"""The report: self-contained, escaped, complete with whatever there is to show."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from report_sample import EVIL, FULL, RECORDS, ROWS, Page, row, write

from scalingnote_jax.evaluate.report.pictures import curve


def test_the_lead_states_the_result_in_plain_words(tmp_path: Path) -> None:
    page = Page(write(tmp_path))
    assert page.text("h1") == "quickstart"
    assert (
        "The best Recall@10 is 0.800, by Teacher (ScaNN index); the student, which ships, has "
        "0.760. The student keeps 95.0 % of the teacher's Recall@10 with 12 times fewer "
        "non-embedding parameters; half of the queries are answered within 2.3 ms."
        in page.text("header")
    )
    assert "pydocs · 1,234 test queries" in page.text("header")


def test_loads_nothing_and_runs_only_its_own_script(tmp_path: Path) -> None:
    text = write(tmp_path, metrics=FULL)
    page = Page(text)
    assert "://" not in text
    assert not {"link", "img", "iframe", "object", "image", "base"} & set(page.tags)
    assert page.tags.count("script") == 1
    assert all(address.startswith("#") for address in page.values("src", "href"))
    assert not re.search(r"@import|fetch\(|import\(", text)
    assert "url(" not in re.sub(r"url\(#", "", text)
    assert "prefers-color-scheme: dark" in text


def test_headings_form_an_outline_that_the_navigation_shows(tmp_path: Path) -> None:
    page = Page(write(tmp_path, metrics=FULL))
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    headings = [a["id"] for tag, a in page.elements if tag == "h2"]
    assert [a["href"] for tag, a in page.elements if tag == "a"] == [f"#{h}" for h in headings]
    assert len(headings) == 11


def test_every_id_is_there_once_and_every_reference_finds_its_own(tmp_path: Path) -> None:
    text = write(tmp_path, metrics=FULL)
    page = Page(text)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    wanted = page.values("aria-labelledby") + [h[1:] for h in page.values("href")]
    assert set(wanted + re.findall(r"url\(#(.*?)\)", text)) <= set(ids)


def test_pictures_have_words_and_tables_have_scopes(tmp_path: Path) -> None:
    page = Page(write(tmp_path, metrics=FULL))
    pictures = [a for tag, a in page.elements if tag == "svg" and "aria-hidden" not in a]
    assert len(pictures) == 3 + 1 + 3 + 2  # training, tuning, robustness, scores
    assert all(a["role"] == "img" and a["aria-label"] for a in pictures)
    assert {a["scope"] for tag, a in page.elements if tag == "th"} == {"col", "row"}
    assert page.tags.count("caption") == page.tags.count("table") == 8


def test_everything_is_escaped(tmp_path: Path) -> None:
    config = {"name": EVIL, "path": EVIL, "eval": {"split": EVIL}}
    metrics = FULL | {"dataset": EVIL}
    text = write(tmp_path, metrics=metrics, config=config, command=f"run '{EVIL}'")
    assert text.count("<script") == 1  # the report's own
    page = Page(text)
    assert page.text("h1") == EVIL
    assert f"query {EVIL}" in page.text("h3")
    assert EVIL in page.text("li")
    assert EVIL in page.text("th")
    assert f"run '{EVIL}'" in page.text("code")


def test_table_has_every_number_and_the_best_in_bold(tmp_path: Path) -> None:
    text = write(tmp_path)
    cells = [re.findall(r"<td.*?</td>", r, re.S) for r in re.findall(r"<tr.*?</tr>", text, re.S)]
    plain = [[re.sub(r"<[^>]*>", "", cell).strip() for cell in line] for line in cells[1:]]
    assert plain == [
        ["0.500", "0.250", "–", "1.5", "2.5", "–"],
        ["0.100", "0.050", "–", "–", "–", "12.0"],
        ["0.800", "0.400", "0.990", "9.0", "12.0", "12.0"],
        ["0.760", "0.380", "0.985", "2.3", "3.0", "1.0"],
    ]
    assert re.findall(r"<b>(.*?)</b>", text) == ["0.800", "0.400"]
    # Sorted by the numbers themselves; a missing one is empty.
    assert Page(text).values("data-value")[:6] == ["0.5", "0.25", "", "1.5", "2.5", ""]


def test_retention_bars_have_the_right_length(tmp_path: Path) -> None:
    text = write(tmp_path)
    widths = [float(w) for w in re.findall(r"<i style=\"width:([\d.]+)%", text)]
    assert widths == pytest.approx([100 * 0.95 / 1.02, 100.0], abs=0.01)
    assert re.findall(r'class="value">([\d.]+)\xa0%', text) == ["95.0", "102.0"]


def test_examples_mark_what_is_right_in_words(tmp_path: Path) -> None:
    text = write(tmp_path)
    items = re.findall(r"<li.*?</li>", text[text.index("<article") :], re.S)
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
    assert 'aria-label="a &lt;title&gt;: 3 at step 10, 0.333 at step 90"' in svg
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
    lead = (
        "The best nDCG@10 is 0.400, by Teacher (exact search); the student, which ships, has "
        "0.200. The student keeps 50.0 % of the teacher's nDCG@10."
    )
    assert lead in Page(write(tmp_path, metrics=metrics)).text("header")
    rows[0]["params_non_embedding"], rows[1]["params_non_embedding"] = 1_000_000, 2_000_000
    assert lead in Page(write(tmp_path, metrics=metrics)).text("header")


def test_lone_surrogates_and_dollars_survive(tmp_path: Path) -> None:
    example = {"query": "price $name \ud800", "relevant": [], "results": {"student": []}}
    page = Page(write(tmp_path, examples=[example]))
    assert page.texts["h3"] == ["price $name \\ud800"]
    assert "Nothing found." in page.text("article")


def test_written_as_a_whole_with_this_command_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/opt/venv/bin/scalingnote", "run", "my config.py"])
    text = write(tmp_path, command=None)
    assert "scalingnote run &#39;my config.py&#39;" in text
    assert "/opt/venv" not in text
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_the_lead_says_who_wins_and_speaks_of_what_ships(tmp_path: Path) -> None:
    rows = [
        row("bm25", "lexical", 0.9),
        row("teacher", "scann", 0.8),
        row("student", "scann", 0.5),
        row("refined", "scann", 0.6, query_ms_p50=1.5, query_ms_p99=2.0),
    ]
    metrics = {
        "dataset": "d",
        "rows": rows,
        "shipped": "refined",
        "retention": {"Recall@10": 0.75},
        "retention_intervals": {"Recall@10": [0.7, 0.801]},
    }
    header = Page(write(tmp_path, metrics=metrics)).text("header")
    assert (
        "The best Recall@10 is 0.900, by BM25 (word matching); the student, which ships, has "
        "0.600. The student keeps 75.0 % (95 % interval 70.0 to 80.1) of the teacher's Recall@10; "
        "half of the queries are answered within 1.5 ms." in header
    )
    rows[0]["metrics"]["Recall@10"] = 0.1
    rows[3]["metrics"]["Recall@10"] = 0.85
    header = Page(write(tmp_path, metrics=metrics)).text("header")
    assert "The best Recall@10 is 0.850, by Student, refined (ScaNN index). The" in header


def test_what_turns_or_hides_text_is_escaped(tmp_path: Path) -> None:
    evil = "red \x1b[31m title \x1b]0;x\x07 csi \x9b turned \u202e end"
    example = {"query": evil, "relevant": [], "results": {"student": []}}
    text = write(tmp_path, examples=[example], config={"name": evil, "eval": {"split": "test"}})
    assert not set(text) & set("\x1b\x07\x9b\u202e")
    shown = r"red \x1b[31m title \x1b]0;x\x07 csi \x9b turned \u202e end"
    assert Page(text).texts["h3"] == [shown]
    assert Page(text).text("h1") == shown
