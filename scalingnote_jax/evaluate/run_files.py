"""TREC run files of other systems, each a row of the evaluation.

Six columns: query, Q0, document, rank, score, tag. As in trec_eval the scores decide the order, and
ranks only among equal scores. Everything is checked: a run of another corpus would look like a bad
system.
"""

from __future__ import annotations

import math
from collections.abc import Collection as Ids
from collections.abc import Iterator, Sequence
from pathlib import Path

from scalingnote_jax.config import EvalConfig
from scalingnote_jax.data.collection import Collection
from scalingnote_jax.errors import bad_input
from scalingnote_jax.evaluate.metrics import without_own
from scalingnote_jax.evaluate.rows import Row
from scalingnote_jax.files.guard import needed_path
from scalingnote_jax.hashing import file_hash
from scalingnote_jax.systems import REGISTRY

Ranked = dict[str, list[tuple[int, float, str]]]
"""Query id → (rank, score, document id) in the order of the file."""


def run_hashes(paths: Sequence[str]) -> list[str]:
    """SHA-256 of each run file.

    Raises:
        UserError: one is not there.
    """
    return [file_hash(needed_path("--eval.runs", path, "TREC run files")) for path in paths]


def run_rows(cfg: EvalConfig, collection: Collection, judged: Ids[str]) -> list[Row]:
    """A row for each of the config's run files, named by its tag.

    Queries that the collection has but the split does not judge are left out, and documents below
    `cfg.depth`.

    Raises:
        UserError: a file is not a run over this collection; names the line.
    """
    run_hashes(cfg.runs)
    documents = set(collection.doc_ids) if cfg.runs else set()
    rows: list[Row] = []
    for name in cfg.runs:
        path = Path(name)
        tag, ranked = read_run(path, set(collection.query_ids), documents)
        system = tag.replace("/", "_")  # it names a file
        if system in (*REGISTRY, *(row.system for row in rows)):
            given, fix = f"the tag {tag!r}, which another row has", "rename it in the last column"
            raise bad_input(f"{path}:1", given, "a tag of its own", fix)
        run = {
            query: [(doc, score) for _, score, doc in _sorted(found)]
            for query, found in ranked.items()
            if query in judged
        }
        if cfg.leave_out_own_id:
            run = without_own(run, cfg.depth)
        rows.append(Row(system, "run", {q: found[: cfg.depth] for q, found in run.items()}))
    return rows


def read_run(path: Path, query_ids: Ids[str], doc_ids: Ids[str]) -> tuple[str, Ranked]:
    """The tag of a run file and what it ranks.

    Raises:
        UserError: a line is not as it should be; `file:line`.
    """
    tag, ranked = "", Ranked()
    seen: dict[tuple[str, str | int], int] = {}
    for number, cells in _lines(path):
        where = f"{path}:{number}"
        query, _, doc, rank_text, score_text, own = cells
        tag = tag or own
        rank = int(_number(where, rank_text, int))
        score = _number(where, score_text, float)
        for kind, found, known in (("query", query, query_ids), ("document", doc, doc_ids)):
            if found not in known:
                fix = "give a run over this very collection, or remove the line"
                raise bad_input(where, f"unknown {kind} {found!r}", f"a {kind} of the data", fix)
        if own != tag:
            given = f"the tag {own!r} after {tag!r}"
            raise bad_input(where, given, "one system a file", "split the file by tags")
        for what, key in (("document", doc), ("rank", rank)):
            first = seen.setdefault((query, key), number)
            if first != number:
                given = f"the {what} {key!r} again for query {query!r}, first on line {first}"
                raise bad_input(where, given, f"each {what} once a query", "remove one of the two")
        ranked.setdefault(query, []).append((rank, score, doc))
    if not ranked:
        raise bad_input(str(path), "no line", "a TREC run", "write the run again")
    return tag, ranked


def _sorted(found: list[tuple[int, float, str]]) -> list[tuple[int, float, str]]:
    return sorted(found, key=lambda one: (-one[1], one[0]))


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            cells = line.split()
            if len(cells) != 6:
                given, fix = f"{len(cells)} columns: {line.strip()[:80]!r}", "write all six columns"
                raise bad_input(f"{path}:{number}", given, "query Q0 document rank score tag", fix)
            yield number, cells


def _number(where: str, text: str, kind: type[int] | type[float]) -> float:
    name, wanted = ("rank", "an integer") if kind is int else ("score", "a finite number")
    try:
        value = kind(text)
        finite = math.isfinite(value)
    except (ValueError, OverflowError):
        finite = False
    if not finite:
        raise bad_input(where, f"the {name} {text[:40]!r}", wanted, "write the run again")
    return value
