"""A report with something in every section, and a reader that checks the page's tags."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from scalingnote_jax.evaluate.report import write_report

EVIL = "<script>alert('x')</script> & \"quotes\" {{ name }}"
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags are balanced; collects text by tag, ids, attributes and addresses."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.tags: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice in {tag}: {names}"
        self.tags.append(tag)
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
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

    def values(self, *names: str) -> list[str]:
        """Of these attributes, wherever they are."""
        return [a[name] for _, a in self.elements for name in names if name in a]


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
METRICS: dict[str, Any] = {
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

INTERVALS = {"Recall@10": [0.741, 0.779]}
JUDGED = {
    "auc_rel": 0.912,
    "auc_sat": 0.731,
    "contrastive_entropy": 1.204,
    "contrastive_entropy_sd": 0.012,
}
COMPARISONS = [
    {
        "a": "student/scann",
        "b": "bm25/lexical",
        "metric": "Recall@10",
        "difference": 0.26,
        "p": 0.0001,
        "p_holm": 0.0003,
    },
    {
        "a": "student/scann",
        "b": "teacher/scann",
        "metric": "Recall@10",
        "difference": -0.04,
        "p": 0.031,
        "p_holm": 0.062,
    },
    {
        "a": "student/scann",
        "b": "bm25/lexical",
        "metric": "nDCG@10",
        "difference": 0.13,
        "p": 0.0001,
        "p_holm": 0.0003,
    },
]
INDEX = {
    "kind": "tree",
    "settings": {"leaves": 1000, "reorder": 200, "soar": True},
    "memory_bytes": 123_400_000,
    "disk_bytes": 987,
    "target_recall": 0.95,
    "tuning": [
        {
            "k": 10,
            "settings": {"search_leaves": n, "reorder": 200, "soar": n > 20},
            "recall": 1 - 0.5 / n**0.7,
            "queries_per_sec": 40_000 / n,
            "chosen": n == 40,
        }
        for n in (5, 10, 20, 40, 80, 160)
    ],
}
FALL = {"student": 0.9, "teacher": 0.4, "bm25": 0.7}
ROBUSTNESS = [
    {
        "kind": kind,
        "strength": strength,
        "system": system,
        "metric": "Recall@10",
        "value": value,
        "interval": [value - 0.03, value + 0.03],
    }
    for kind, harm in (("typos", 1.0), ("dropped_words", 0.7), ("near_duplicates", 0.4))
    for system, start in (("student", 0.76), ("teacher", 0.8), ("bm25", 0.5))
    for strength in (0.0, 0.1, 0.2, 0.4)
    for value in [start * (1 - harm * FALL[system] * strength)]
]
EDGES = [i / 20 for i in range(-4, 21)]


def bell(middle: float, count: int) -> list[int]:
    return [round(count * math.exp(-(((e + 0.025 - middle) / 0.15) ** 2))) for e in EDGES[:-1]]


SCORES = {
    name: {"edges": EDGES, "positives": bell(up, 90), "negatives": bell(0.2, 4000)}
    for name, up in (("student", 0.6), ("teacher", 0.7))
}
WORST = [
    {
        "query": f"how to {EVIL}",
        "student": 0.0,
        "teacher": 1.0,
        "metric": "nDCG@10",
        "relevant": ["the right text", EVIL],
        "results": {
            "student": [["d9", "a wrong text", 0.81], ["d8", "word " * 500, 0.8]],
            "teacher": [["d1", "the right text", 0.93], ["d9", "a wrong text", 0.7]],
        },
    }
]
COLLECTIONS: list[dict[str, Any]] = [
    {
        "trained_on": a,
        "tested_on": b,
        "system": system,
        "queries": {"pydocs": 1234, "scifact": 300}[b],
        "metrics": {"Recall@10": value, "nDCG@10": value / 2},
    }
    for system, a, b, value in (
        ("student", "pydocs", "pydocs", 0.761),
        ("student", "pydocs", "scifact", 0.402),
        ("student", "scifact", "scifact", 0.633),
        ("bm25", None, "pydocs", 0.501),
        ("bm25", None, "scifact", 0.655),
    )
]
COLLECTIONS[1] |= {
    "intervals": {"Recall@10": [0.38, 0.424]},
    "retention": {"Recall@10": 0.912},
    "retention_intervals": {"Recall@10": [0.88, 0.94]},
}
FULL = METRICS | {
    "rows": [*ROWS[:3], ROWS[3] | {"intervals": INTERVALS, "judged": JUDGED}],
    "comparisons": COMPARISONS,
    "retention_intervals": {"Recall@10": [0.931, 0.968]},
    "index": INDEX,
    "robustness": ROBUSTNESS,
    "scores": SCORES,
    "worst": WORST,
    "collections": COLLECTIONS,
}


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
