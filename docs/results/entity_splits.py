"""Splits of a BEIR folder in which no entity of a test query is in training: the collections on
which docs/results.md tells what a student keeps for names that it never met.

    python docs/results/entity_splits.py dstc11-sktod FOLDER/dstc11-sktod runs/data/dstc11-by-entity

What an entity is, `ENTITIES` says for each collection. Entities are dealt by a hash of their name,
six tenths to training, one to dev, three to test. A query goes where the entities of its relevant
documents are, and is left out if they are in several splits; with `main=True`, where documents of
one query have many entities, it goes where most of them are, and the others are not judged.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

SHARES = (("train", 0.6), ("dev", 0.7), ("test", 1.0))  # up to which part of the hash


class Entities(NamedTuple):
    """How documents of a collection are put together."""

    of: Callable[[dict[str, Any]], str]
    main: bool = False
    named: bool = False  # the query is the entity's name and the last turn of the dialogue


def _part(document: dict[str, Any], count: int) -> str:
    return "-".join(document["_id"].split("-")[:count])


def _chapter(document: dict[str, Any]) -> str:
    """A statute, and of a long one the hundreds of the article: a title has no chapter."""
    statute, _, article = document["title"].partition("第")
    hundreds = re.match("(.)百", article)
    return f"{statute} {hundreds.group(1) if hundreds else ''}"


ENTITIES = {
    "medquad": Entities(lambda d: d["title"].casefold()),
    "selqa": Entities(lambda d: d["title"].split(" - ")[0]),
    "scifact": Entities(lambda d: d["_id"]),
    "stard-zh": Entities(_chapter),
    "dstc11-sktod": Entities(lambda d: _part(d, 2)),
    "dstc11-sktod-domain": Entities(lambda d: _part(d, 1)),
    "dstc11-sktod-named": Entities(lambda d: _part(d, 2), named=True),
    "chorus-electronics": Entities(lambda d: (d.get("metadata") or {}).get("brand") or "", True),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("entities", choices=ENTITIES)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    for split, (queries, pairs) in deal(ENTITIES[given.entities], given.source, given.out).items():
        print(f"{split}: {queries} queries, {pairs} pairs")


def deal(entities: Entities, source: Path, out: Path) -> dict[str, tuple[int, int]]:
    """Writes the folder; split → queries and pairs."""
    documents = {d["_id"]: d for d in _lines(source, "corpus")}
    queries = {q["_id"]: q for q in _lines(source, "queries")}
    entity = {doc_id: entities.of(d) for doc_id, d in documents.items()}
    names = {entity[i]: d["title"].split(" (")[0] for i, d in documents.items()}
    judged: dict[str, list[tuple[str, str, int]]] = {split: [] for split, _ in SHARES}
    asked: dict[str, dict[str, Any]] = {}
    for query_id, grades in _judgements(source).items():
        for about, kept in _by_query(entities, {d: entity[d] for d in grades}).items():
            new_id, text = query_id, queries[query_id]["text"]
            if entities.named:
                new_id = f"{query_id}-{about}"
                text = f"{names[about]}: {queries[query_id]['metadata']['last_turn']}"
            asked[new_id] = {"_id": new_id, "text": text}
            judged[_split(about)] += [(new_id, d, grades[d]) for d in kept]
    (out / "qrels").mkdir(parents=True)
    for name in ("corpus.jsonl", "corpus.jsonl.gz"):
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    lines = (json.dumps(q, ensure_ascii=False) + "\n" for q in asked.values())
    (out / "queries.jsonl").write_text("".join(lines), encoding="utf-8")
    for split, rows in judged.items():
        body = "".join(f"{q}\t{d}\t{grade}\n" for q, d, grade in rows)
        path = out / "qrels" / f"{split}.tsv"
        path.write_text("query-id\tcorpus-id\tscore\n" + body, encoding="utf-8")
    return {split: (len({r[0] for r in rows}), len(rows)) for split, rows in judged.items()}


def _by_query(entities: Entities, found: dict[str, str]) -> dict[str, list[str]]:
    """Entity that a query counts for → its relevant documents."""
    if entities.named:  # a question about each
        groups: defaultdict[str, list[str]] = defaultdict(list)
        for doc_id, name in found.items():
            groups[name].append(doc_id)
        return groups
    most = Counter(found.values()).most_common(1)[0][0]
    inside = [d for d, name in found.items() if _split(name) == _split(most)]
    return {most: inside} if entities.main or len(inside) == len(found) else {}


def _split(entity: str) -> str:
    share = int(hashlib.sha256(entity.encode()).hexdigest()[:8], 16) / 2**32
    return next(split for split, end in SHARES if share < end)


def _lines(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    path = folder / f"{name}.jsonl"
    with path.open("rb") if path.is_file() else gzip.open(f"{path}.gz") as file:
        for line in file:
            yield json.loads(line)


def _judgements(folder: Path) -> dict[str, dict[str, int]]:
    """Query → relevant document → grade, of all splits together."""
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for split, _ in SHARES:
        for line in (folder / "qrels" / f"{split}.tsv").read_text().splitlines()[1:]:
            query_id, doc_id, grade = line.split("\t")
            if int(grade) > 0:
                found[query_id][doc_id] = int(grade)
    return dict(found)


if __name__ == "__main__":
    main()
