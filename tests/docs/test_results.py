"""docs/results.md is what its generator makes of docs/results/*.json, and a workdir becomes such a
file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs" / "results"))
import make

DOCS = make.PAGE.parent


def test_the_page_is_what_the_files_say() -> None:
    assert (DOCS / "results.md").read_text() == make.page(make.read(), make.READING.read_text())


def test_the_picture_has_every_system_of_every_collection() -> None:
    shown = texts(make.PICTURE.read_text())
    for r in make.read():
        assert {r["name"], f"{r['dataset']}: Recall@50", f"{r['dataset']}: nDCG@10"} <= shown


@pytest.mark.parametrize("path", sorted((DOCS / "results").glob("*.json")), ids=lambda p: p.stem)
def test_each_file_can_be_made_again(path: Path) -> None:
    result = json.loads(path.read_text())
    assert (DOCS.parent / result["config"]).is_file()
    assert result["command"].startswith(f"scalingnote run {result['config']} ")
    assert result["commit"]
    assert result["rows"]


@pytest.mark.slow
def test_a_workdir_becomes_a_file(finished: Path, tiny_config: Path, tmp_path: Path) -> None:
    path = make.add(finished, tiny_config, "", tmp_path)
    assert path.name == "beir-tiny-0.json"
    result = json.loads(path.read_text())
    assert result["command"] == "scalingnote run configs/tiny.py --workdir=runs/tiny"
    metrics = json.loads((finished / "eval" / "metrics.json").read_text())
    row = next(r for r in metrics["rows"] if (r["system"], r["search"]) == ("student", "scann"))
    singles = np.array(result["per_query"]["student"]["nDCG@10"].split(), float)
    assert singles.mean() == pytest.approx(row["metrics"]["nDCG@10"], abs=1e-4)
    page = make.page([result])
    assert "| tiny | random | random | 1 |" in page
    assert "| tiny: teacher | random | random | 1 |" in page
    assert f"{row['metrics']['nDCG@10']:.3f}" in page


def result(name: str, seed: int, values: str) -> dict:
    """Of a system with these values of its queries."""
    mean = float(np.mean([float(v) for v in values.split()]))
    row = {
        "system": "student",
        "search": "scann",
        "query_tower": "q",
        "doc_tower": "d",
        "metrics": {"nDCG@10": mean},
        "intervals": {"nDCG@10": [mean, mean]},
        "query_ms_p50": 2.0,
        "cost": {"flops": 2e15, "secs": 90.0, "query_flops": 3_000_000},
    }
    return {
        "name": name,
        "dataset": "set",
        "seed": seed,
        "shipped": "student",
        "command": f"scalingnote run configs/{name}.py",
        "commit": "abc",
        "machine": "m",
        "rows": [row, row | {"system": "teacher", "metrics": {"nDCG@10": 2 * mean}}],
        "queries": "same",
        "per_query": {"student": {"nDCG@10": values}},
    }


def test_seeds_are_averaged_and_systems_compared() -> None:
    good = [result("good", seed, "1 0.8 0.9 1 0.7 0.9 1 0.9") for seed in (0, 1)]
    bad = [result("bad", 0, "0.1 0 0.2 0.1 0 0.1 0.3 0.2")]
    page = make.page([*good, *bad])
    assert "| good | q | d | 2 | 0.900 (" in page
    assert "| bad | q | d | 1 | 0.125 (0.125 to 0.125) | 2 | 1.5 | 3 | 2.0 |" in page
    # All signs must agree: 2 of 2⁸ patterns, 0.0078
    assert "| good − bad | +0.775 | 0.0" in page
    assert "| good | 1 | 50.0% |" in page


def test_the_picture_shows_the_means() -> None:
    seeds = [result("ours", seed, f"1 0.8 0.{seed}") for seed in (0, 1)]
    for row in (row for r in seeds for row in r["rows"]):
        row["metrics"]["Recall@50"] = 0.75
    svg = make.picture(seeds)
    assert {"ours", "ours: teacher", "set: nDCG@10", "0.617", "1.233", "0.750"} <= texts(svg)
    assert svg == make.picture(seeds)


def texts(svg: str) -> set[str]:
    return {element.text for element in ElementTree.fromstring(svg).iter() if element.text}


def test_what_two_workdirs_share_stands_once() -> None:
    a, b = (result(name, 0, "1 0.5") for name in "ab")
    page = make.page([a, b])
    assert page.count("| a: teacher |") == 1
    assert "| b: teacher |" not in page
    assert page.count("| a | q |") == page.count("| b | q |") == 1
