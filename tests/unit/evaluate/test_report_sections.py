"""Each section of the report: there with its numbers, gone without its data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from report_sample import (
    COLLECTIONS,
    EVIL,
    FULL,
    INDEX,
    METRICS,
    ROBUSTNESS,
    SCORES,
    Page,
    write,
)

from scalingnote_jax.evaluate.report.crossed import of_a_run
from scalingnote_jax.evaluate.report.pictures import histogram, robustness, tuning
from scalingnote_jax.evaluate.report.svg import LOOKS, looks
from scalingnote_jax.evaluate.report.words import fixed, probability, size, span

HEADINGS = {
    "comparisons": "Which differences are real",
    "index": "The index",
    "robustness": "Robustness",
    "scores": "Scores",
    "worst": "Where the student falls behind",
    "collections": "Other collections",
}


def section(text: str, name: str) -> str:
    """The words of one section, with single spaces."""
    own = re.search(rf'<section aria-labelledby="{name}">(.*?)</section>', text, re.S)
    assert own is not None
    plain = re.sub(r"<[^>]*>", " ", re.sub(r"<svg.*?</svg>", "", own[1], flags=re.S))
    return " ".join(plain.replace("&nbsp;", " ").split())


@pytest.mark.parametrize("field", HEADINGS)
def test_a_section_is_there_with_its_data_alone(tmp_path: Path, field: str) -> None:
    def headings(**more: Any) -> list[str]:
        return Page(write(tmp_path, METRICS | more, curves={}, examples=[])).texts["h2"]

    always = ["Results", "What the student keeps", "How it was made"]
    assert headings() == always
    assert headings(**{field: None}) == always
    assert headings(**{field: type(FULL[field])()}) == always
    assert sorted(headings(**{field: FULL[field]})) == sorted([*always, HEADINGS[field]])


def test_intervals_and_judged_scores_join_the_results(tmp_path: Path) -> None:
    words = section(write(tmp_path, metrics=FULL), "results")
    assert "0.760 0.741 to 0.779 0.380 0.912 0.731 1.204 ± 0.012" in words
    assert "AUC-REL AUC-SAT contrastive entropy" in words
    assert "less is better" in words
    without = section(write(tmp_path, metrics=METRICS), "results")
    assert "AUC" not in without
    assert "interval" in words
    assert "interval" not in without
    assert "entropy" not in without


def test_differences_with_both_probabilities(tmp_path: Path) -> None:
    words = section(write(tmp_path, metrics=FULL), "differences")
    pair = "Student, ScaNN index − BM25, word matching +0.260 &lt; 0.001 &lt; 0.001 yes"
    assert pair in words
    assert "Teacher, ScaNN index −0.040 0.031 0.062 not shown" in words
    # Each metric has its own table; those after the first are folded.
    assert words.count("Differences in Recall@10") == 2
    assert "Differences in nDCG@10 Differences in nDCG@10 Pair" in words


def test_retention_with_its_interval(tmp_path: Path) -> None:
    text = write(tmp_path, metrics=FULL)
    words = section(text, "retention")
    assert "Recall@10 95.0 % 93.1 to 96.8 nDCG@10 102.0 %" in words
    whisker = re.findall(r'<u style="left:([\d.]+)%;right:([\d.]+)%"', text)
    left, right = map(float, whisker[0])
    assert len(whisker) == 1
    assert (left, 100 - right) == pytest.approx((93.1 / 1.02, 96.8 / 1.02), abs=0.01)


def test_the_index_names_its_settings_and_the_one_chosen(tmp_path: Path) -> None:
    text = write(tmp_path, metrics=FULL)
    words = section(text, "index")
    assert "Kind tree Settings leaves 1000, reorder 200, soar on Memory 123.4 MB" in words
    assert "On disk 987 B Target recall 0.95" in words
    assert "4 chosen 10 0.962 1,000 40 on 5 10 0.977 500 80 on" in words
    labels = [label for label in Page(text).values("aria-label") if "settings" in label]
    assert labels == [
        "Recall@10 and speed of 6 settings; chosen: recall@10 0.962 at 1,000 queries per second; "
        "target 0.95"
    ]


def test_an_index_that_was_not_tuned_has_no_curve(tmp_path: Path) -> None:
    index = {"kind": "brute force", "settings": {}, "memory_bytes": 1000}
    words = section(write(tmp_path, metrics=METRICS | {"index": index}), "index")
    assert words == "The index Kind brute force Memory 1.0 KB"
    assert tuning([{"recall": None, "queries_per_sec": 3}], 0.9) == ""


def test_tuning_marks_the_target_and_the_choice() -> None:
    points = INDEX["tuning"]
    assert isinstance(points, list)
    plain = tuning([p | {"chosen": False} for p in points], None)
    assert "chosen" not in plain
    assert "target" not in plain
    # Two marks more: the star and the target's line.
    assert tuning(points, 0.95).count("var(--fg)") > plain.count("var(--fg)") == 0


def test_robustness_has_a_picture_for_each_kind_and_all_numbers(tmp_path: Path) -> None:
    text = write(tmp_path, metrics=FULL)
    own = text[text.index('<section aria-labelledby="robustness"') :]
    captions = Page(own[: own.index("</section>") + len("</section>")]).texts["figcaption"]
    assert captions == [
        "Typos: Recall@10",
        "Dropped words: Recall@10",
        "Near duplicates: Recall@10",
    ]
    words = section(text, "robustness")
    assert "Student Teacher BM25" in words
    assert "typos Student Recall@10 0.4 0.486 0.456 to 0.516" in words
    assert words.count("Recall@10") == len(ROBUSTNESS) + len(captions)
    assert (
        "Typos: Recall@10: Student 0.760 at 0, 0.486 at 0.4; Teacher 0.800 at 0, 0.672 at 0.4; "
        "BM25 0.500 at 0, 0.360 at 0.4"
    ) in Page(text).values("aria-label")


def test_lines_differ_in_more_than_colour() -> None:
    assert len({str(look.dash) for look in LOOKS.values()}) == len(LOOKS)
    assert len({look.marker for look in LOOKS.values()}) == len(LOOKS)
    found = looks(["student", "their-run", "bm25", "other-run"])
    assert len(set(found.values())) == 4
    assert found["student"] == LOOKS["student"]
    svg = robustness("t", {"their-run": [(0.0, 1.0, 0.9, 1.0)]}, found, (0, 1))
    assert "their-run 1.000 at 0" in svg
    assert not re.search(r"(fill|stroke): ?(#|black|white)", svg)


def test_histograms_say_where_the_middles_are(tmp_path: Path) -> None:
    svg = histogram("x", [0, 1, 2, 3], [0, 1, 3], [4, 0, 0])
    assert 'aria-label="Scores of x; middle of relevant documents 2.5, other documents 0.5"' in svg
    assert histogram("x", [0, 1], [0], [0]) == ""
    assert "other" not in histogram("x", [0, 1], [2], [0])
    labels = Page(write(tmp_path, metrics=FULL)).values("aria-label")
    assert len([label for label in labels if label.startswith("Scores of")]) == len(SCORES)


def test_worst_queries_with_both_answers(tmp_path: Path) -> None:
    words = section(write(tmp_path, metrics=FULL), "worst").replace("&#39;", "'")
    evil = EVIL.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert f"how to {evil}".replace('"', "&#34;") in words
    assert "Student nDCG@10 0.000 1 a wrong text d9 0.810" in words
    assert "Teacher nDCG@10 1.000 1 ✓ right the right text d1 0.930" in words
    assert words.count("✓ right") == 1


def test_matrix_of_collections(tmp_path: Path) -> None:
    text = write(tmp_path, metrics=FULL)
    words = section(text, "collections")
    assert (
        "System pydocs scifact Student trained on pydocs 0.761 0.402 0.380 to 0.424 "
        "Student trained on scifact – 0.633 BM25 0.501 0.655" in words
    )
    assert "nDCG@10 nDCG@10 System pydocs scifact Student trained on pydocs 0.381 0.201" in words
    assert "Student / teacher Metric scifact Recall@10 91.2 % 88.0 to 94.0" in words
    assert words.endswith("95 % interval. Judged queries: pydocs 1,234, scifact 300.")
    own = [a["data-value"] for _, a in Page(text).elements if a.get("class") == "own"]
    assert own == ["0.761", "0.633", "0.3805", "0.3165"]
    start = text.index('<section aria-labelledby="collections"')
    bold = re.findall(r"<b>(.*?)</b>", text[start : text.index("</section>", start)])
    assert bold == ["0.761", "0.655", "0.381", "0.328"]


def test_a_student_of_another_kind_is_named_beside_its_retention() -> None:
    rows = [row | {"system": "student_int8"} for row in COLLECTIONS[1:2]]
    found = of_a_run(rows)
    assert found is not None
    assert found.kept is not None
    head = found.kept.lines[0].head
    assert (head.shown, head.detail) == ("Recall@10", "Student, int8")
    assert "interval" in found.note
    bare = of_a_run(COLLECTIONS[3:])  # BM25 alone, without intervals
    assert bare is not None
    assert bare.kept is None
    assert "interval" not in bare.note


def test_numbers_as_words() -> None:
    assert fixed(-0.0404, signed=True) == "−0.040"
    assert [fixed(x) for x in (None, float("nan"), "x")] == ["–", "–", "–"]
    assert span([0.1, None]) == ""
    assert [probability(p) for p in (0.0, 0.0123, None)] == ["< 0.001", "0.012", "–"]
    assert [size(n) for n in (12, 1500, 2.5e9)] == ["12\u00a0B", "1.5\u00a0KB", "2.5\u00a0GB"]


def test_seen_and_unseen_entities_have_bars_of_their_own(tmp_path: Path) -> None:
    def group(queries: int, kept: float) -> dict[str, Any]:
        spread = {"Recall@10": [kept - 0.1, kept + 0.1]}
        return {"queries": queries, "retention": {"Recall@10": kept}, "retention_intervals": spread}

    metrics = FULL | {"entities": {"seen": group(40, 1.0), "unseen": group(60, 0.75)}}
    words = section(write(tmp_path, metrics=metrics), "entities")
    assert "entities: 40 seen, 60 unseen Recall@10, seen 100.0 % 90.0 to 110.0" in words
    assert "Recall@10, unseen 75.0 % 65.0 to 85.0" in words


def test_alarms_stand_below_the_lead(tmp_path: Path) -> None:
    text = write(tmp_path, metrics=FULL | {"alarms": ["it finds <40%> of the best"]})
    header = Page(text).text("header")
    assert "The student may not keep its recall: it finds <40%> of the best." in header
    assert 'class="alarm"' not in write(tmp_path, metrics=FULL)
