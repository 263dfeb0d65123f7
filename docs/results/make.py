"""docs/results.md from the JSON files beside this script; and such a file from a finished workdir.

    python docs/results/make.py                          writes docs/results.md and .svg
    python docs/results/make.py add WORKDIR CONFIG       writes docs/results/DATASET-NAME-SEED.json
                                                         first; CONFIG is the file in configs/ that
                                                         the workdir was run with, and --name=…
                                                         another name than its own

The page is what reading.md concludes, the picture, then the tables. A file holds what is needed to
make its rows again (config, overrides, seed, commit, command), the rows of `eval/metrics.json`, and
the metrics of single queries that the tests compare. Nothing is trained or scored here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jax
import numpy as np
from plot import Point, draw

from scalingnote_jax.config import Config
from scalingnote_jax.config.load import load_config
from scalingnote_jax.config.values import field_values, read_workdir_config
from scalingnote_jax.evaluate.report.words import first_row
from scalingnote_jax.evaluate.statistics import compare_rows, interval, resampled_over_runs
from scalingnote_jax.hashing import content_hash

HERE = Path(__file__).resolve().parent
PAGE = HERE.with_suffix(".md")
PICTURE = HERE.with_suffix(".svg")
READING = HERE / "reading.md"  # written by hand
TESTED = ("Recall@50", "nDCG@10")  # of which single queries are kept
COST = {"flops": ("training, PFLOP", 1e15), "secs": ("training, min", 60.0)}
Result = dict[str, Any]


def add(workdir: Path, config_file: Path, name: str, folder: Path = HERE) -> Path:
    """Writes the file of a finished workdir; returns it."""
    metrics = json.loads((workdir / "eval" / "metrics.json").read_text())
    config = read_workdir_config(workdir)
    name, words = name or config.name, overrides(config, config_file)
    parts = config_file.parts  # as from the top of a clone, wherever the clone is
    inside = parts[parts.index("configs") + 1 :] if "configs" in parts else parts[-1:]
    file = "/".join(("configs", *inside))
    command = ["scalingnote", "run", file, *words, f"--workdir=runs/{name}"]
    result = {
        "name": name,
        "dataset": metrics["dataset"],
        "seed": config.seed,
        "config": file,
        "overrides": words,
        "command": shlex.join(command),
        "commit": _commit(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python "
        f"{platform.python_version()}, jax {jax.__version__}, {jax.default_backend()}",
        "shipped": config.stages.row_name(config.stages.shipped),
        "rows": [_plain(row) for row in metrics["rows"]],
        **_single_queries(workdir, metrics["rows"]),
    }
    path = folder / f"{metrics['dataset']}-{name}-{config.seed}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def overrides(config: Config, config_file: Path) -> list[str]:
    """What makes the file's config this one, as words of the command line; folders of this machine
    lose all but their name. Fields of a stage that is left out change nothing.
    """
    before, after = field_values(load_config(config_file)), field_values(config)
    off = tuple(f"{s}." for s in ("distill", "refine") if not getattr(config, s).duration)
    changed = {
        field: value
        for field, value in after.items()
        if value != before.get(field) and (field.endswith(".duration") or not field.startswith(off))
    }
    return [f"--{field}={_word(value)}" for field, value in changed.items()]


def _word(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_word, value))
    absolute = isinstance(value, str) and Path(value).is_absolute()
    return f"FOLDER/{Path(value).name}" if absolute else str(value)


def _commit() -> str:
    """The checkout's, with a plus where files differ from it."""
    git = ["git", "-C", str(HERE)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "../../scalingnote_jax"])
    return head.stdout.strip() + "+" * (changed.returncode != 0)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    kept = ("system", "search", "queries", "query_tower", "doc_tower", "metrics", "intervals")
    more = ("ann_recall@10", "query_ms_p50", "params_non_embedding", "cost")
    return {key: row[key] for key in (*kept, *more) if key in row}


def _single_queries(workdir: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Metrics of single queries as text, in the order of the queries' ids: a number to a line would
    be most of the file.
    """
    firsts = (first_row(rows, system) or {} for system in {row["system"] for row in rows})
    shown = {(row["system"], row["search"]) for row in firsts}
    values: dict[str, dict[str, dict[str, float]]] = {}
    with (workdir / "eval" / "per_query.jsonl").open() as lines:
        for line in map(json.loads, lines):
            if (line["system"], line["search"]) in shown:
                for metric in set(TESTED) & set(line):
                    system = values.setdefault(line["system"], {}).setdefault(metric, {})
                    system[line["query"]] = line[metric]
    texts = {
        system: {m: " ".join(f"{v[q]:.4g}" for q in sorted(v)) for m, v in sorted(metrics.items())}
        for system, metrics in sorted(values.items())
    }
    ids = sorted(next(iter(next(iter(values.values())).values()))) if values else []
    return {"queries": content_hash(ids), "per_query": texts}


def page(results: list[Result], reading: str = "") -> str:
    """The whole of docs/results.md.

    Args:
        reading: what a person concludes from the tables, put in front of them.
    """
    note = "Made by docs/results/make.py from reading.md and the JSON files beside it: edit those."
    head = f"<!-- {note} -->\n\n# Results"
    said = [reading.strip()] if reading.strip() else []
    tables = [_dataset(of_one) for of_one in _by_dataset(results).values()]
    shown = f"![{' and '.join(TESTED)} of every system, with their intervals]({PICTURE.name})"
    below = [shown, *tables] if tables else ["No results yet."]
    return "\n\n".join([head, *said, *below]) + "\n"


def picture(results: list[Result]) -> str:
    """The text of docs/results.svg: means over seeds, with the intervals of the tables."""
    by_dataset = {n: _systems(of_one).items() for n, of_one in _by_dataset(results).items()}
    return draw(
        {n: {m: [_point(*s, m) for s in own] for m in TESTED} for n, own in by_dataset.items()}
    )


def _by_dataset(results: list[Result]) -> dict[str, list[Result]]:
    names = sorted({r["dataset"] for r in results})
    return {name: [r for r in results if r["dataset"] == name] for name in names}


def _dataset(results: list[Result]) -> str:
    systems = _systems(results)
    metrics = list(next(iter(systems.values()))[0][1]["metrics"])
    tests = [_tests(systems, metric) for metric in TESTED]
    costs = [*(title for title, _ in COST.values()), "a query, MFLOP", "p50, ms"]
    commands = "\n".join(f"- `{r['command']}` ({r['commit']}, {r['machine']})" for r in results)
    parts = [
        f"## {results[0]['dataset']}",
        _table(["system", "query tower", "document tower", "seeds", *metrics, *costs])
        + "\n".join(_row(name, runs, metrics) for name, runs in systems.items()),
        *(test for test in tests if test),
        _kept(results),
        _folded("The runs: commands, commits, machines", commands),
    ]
    return "\n\n".join(part for part in parts if part)


def _systems(results: list[Result]) -> dict[str, list[tuple[Result, dict[str, Any]]]]:
    """Name in the table → (file, row) of each seed: what a config ships under its own name, what
    else it has beside it, and BM25; what several workdirs share, once.
    """
    found: dict[str, list[tuple[Result, dict[str, Any]]]] = {}
    for result in sorted(results, key=lambda r: (r["name"], r["seed"])):
        for system in dict.fromkeys(row["system"] for row in result["rows"]):
            name = f"{result['name']}: {system}"
            if system == result["shipped"]:
                name = result["name"]
            elif system == "bm25":
                name = "bm25"
            row = first_row(result["rows"], system)
            others = [r for runs in found.values() for o, r in runs if o["seed"] == result["seed"]]
            again = system != result["shipped"] and any(_alike(row, other) for other in others)
            if row is not None and not again:
                found.setdefault(name, []).append((result, row))
    return found


def _alike(a: dict[str, Any] | None, b: dict[str, Any]) -> bool:
    """Whether two rows are of the same towers, which one workdir has taken over from another."""
    keys = ("metrics", "query_tower", "doc_tower")
    return a is not None and all(a[key] == b[key] for key in keys)


def _row(name: str, runs: list[tuple[Result, dict[str, Any]]], metrics: list[str]) -> str:
    first = runs[0][1]
    cells = [name, first["query_tower"] or "–", first["doc_tower"] or "–", str(len(runs))]
    for metric in metrics:
        point = _point(name, runs, metric)
        spread = " to ".join(f"{x:.3f}" for x in point.interval)
        cells.append(f"{point.mean:.3f} ({spread})" if spread else f"{point.mean:.3f}")
    cost = first.get("cost") or {}
    cells += [f"{cost[key] / unit:.3g}" if key in cost else "–" for key, (_, unit) in COST.items()]
    cells.append(f"{cost['query_flops'] / 1e6:.3g}" if cost else "–")
    milliseconds = first.get("query_ms_p50")
    return _line([*cells, "–" if milliseconds is None else f"{milliseconds:.1f}"])


def _point(name: str, runs: list[tuple[Result, dict[str, Any]]], metric: str) -> Point:
    """The interval is of seeds and queries; of one seed, as the evaluation gave it."""
    mean = float(np.mean([row["metrics"][metric] for _, row in runs]))
    if len(runs) == 1:
        return Point(name, mean, (runs[0][1].get("intervals") or {}).get(metric, []))
    values = _values(runs, metric)
    spread = [] if values is None else interval(resampled_over_runs(values, seed=0))
    return Point(name, mean, spread)


def _values(runs: list[tuple[Result, dict[str, Any]]], metric: str) -> np.ndarray | None:
    """[seeds, q], if single queries were kept and are the same."""
    texts = [result["per_query"].get(row["system"], {}).get(metric) for result, row in runs]
    same = len({result["queries"] for result, _ in runs}) == 1
    return np.array([text.split() for text in texts], float) if same and all(texts) else None


def _tests(systems: dict[str, list[tuple[Result, dict[str, Any]]]], metric: str) -> str:
    """Every pair of what configs ship: randomisation tests on the queries' means over seeds."""
    shipped = {n: runs for n, runs in systems.items() if runs[0][0]["name"] == n}
    values = {name: _values(runs, metric) for name, runs in shipped.items()}
    queries = {name: runs[0][0]["queries"] for name, runs in shipped.items()}
    usual = next(iter(queries.values()), "")
    known = [name for name, v in values.items() if v is not None and queries[name] == usual]
    if len(known) < 2:
        return ""
    stacked = np.array([np.mean(values[name], axis=0) for name in known])[:, :, None]
    shown = {"difference": "+.3f", "p": ".2g", "p_holm": ".2g"}
    lines = [
        _line([f"{c['a']} − {c['b']}", *(f"{c[x]:{form}}" for x, form in shown.items())])
        for c in compare_rows(stacked, known, [metric], seed=0)
    ]
    table = _table(["pair", "difference", "p", "p, Holm"]) + "\n".join(lines)
    return _folded(f"{metric}: every pair", table)


def _kept(results: list[Result]) -> str:
    """What is shipped keeps of its teacher on the same index."""
    lines = []
    for result in sorted(results, key=lambda r: (r["name"], r["seed"])):
        teacher, ours = (first_row(result["rows"], s) for s in ("teacher", result["shipped"]))
        if teacher is not None and ours is not None:
            metrics = list(teacher["metrics"])
            shares = [ours["metrics"][m] / max(teacher["metrics"][m], 1e-9) for m in metrics]
            lines.append(
                _line([result["name"], str(result["seed"]), *(f"{x:.1%}" for x in shares)])
            )
    titles = ["shipped / teacher", "seed", *(metrics if lines else ())]
    return _table(titles) + "\n".join(lines) if lines else ""


def _folded(title: str, text: str) -> str:
    """`text` behind a line to click on; the attribute makes the site read it as Markdown too."""
    return f'<details markdown="1"><summary>{title}</summary>\n\n{text}\n\n</details>'


def _table(titles: list[str]) -> str:
    return f"{_line(titles)}\n{'|---' * len(titles)}|\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def read(folder: Path = HERE) -> list[Result]:
    """All files, by name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb")
    adding = verbs.add_parser("add", help="first the file of a finished workdir")
    adding.add_argument("workdir", type=Path)
    adding.add_argument("config", type=Path)
    adding.add_argument("--name", default="", help="in the tables; default: the config's")
    args = parser.parse_args()
    if args.verb == "add":
        print(add(args.workdir, args.config, args.name))
    results = read()
    PAGE.write_text(page(results, READING.read_text()))
    PICTURE.write_text(picture(results))
    print(PAGE)


if __name__ == "__main__":
    main()
