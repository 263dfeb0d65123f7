"""Hard negatives of the training queries: ranked by the teacher or BM25, or named by the data;
chosen by `data/negatives.py`, and kept.

    negatives/negatives.npz     the columns of `Negatives`
    negatives/statistics.json   what was found and dropped, with quantiles of the scores
    negatives/manifest.json     what they were made from, and the files' sizes and hashes
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from scalingnote_jax.config import (
    DataConfig,
    EncodeConfig,
    ExactConfig,
    MineConfig,
    NegativeSource,
)
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.data.members import Members
from scalingnote_jax.data.negatives import Negatives, Ranking, Window, choose
from scalingnote_jax.data.relevance import Relevance
from scalingnote_jax.data.sources.mixture import bare
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import bad_input
from scalingnote_jax.hashing import file_hash
from scalingnote_jax.progress import progress
from scalingnote_jax.retrieval.bm25 import bm25_run
from scalingnote_jax.retrieval.exact import exact_search
from scalingnote_jax.text.contract import token_table
from scalingnote_jax.vectors.encode import side_vectors
from scalingnote_jax.vectors.encoder import load_encoder
from scalingnote_jax.vectors.rows_on_disk import RowsOnDisk
from scalingnote_jax.vectors.trained import RunTowers, TrainedTower
from scalingnote_jax.workflow.artefact import (
    ENTRY,
    check_files,
    file_entry,
    partial_folder,
    put_in_place,
    read_manifest,
    write_manifest,
)
from scalingnote_jax.workflow.engine import Place

FILE, STATISTICS = "negatives.npz", "statistics.json"
WIDTH = 110  # of the table, in characters, where there is no terminal
QUANTILES = (0, 5, 25, 50, 75, 95, 100)  # per cent
_PAIRS = 4096  # relevant pairs, whose documents are read at once
_ROWS = 65_536  # documents read at once
_REDO = "run `scalingnote run` again, which mines anew"


@dataclass(frozen=True)
class Ranker:
    """The teacher that ranks the documents, by exact search.

    Attributes:
        query, doc: its towers.
        vectors: the folder of its document vectors, which are kept as `encode` keeps them.
    """

    query: TrainedTower
    doc: TrainedTower
    vectors: Path
    encode: EncodeConfig
    exact: ExactConfig

    @classmethod
    def of(
        cls, towers: RunTowers, vectors: Path, encode: EncodeConfig, exact: ExactConfig
    ) -> Ranker:
        """The teacher of a run."""
        return cls(
            towers.get("teacher", "query"), towers.get("teacher", "doc"), vectors, encode, exact
        )


def mine(
    source: NegativeSource,
    rules: MineConfig,
    data: DataConfig,
    seed: int,
    collection: Collection,
    place: Place,
    ranker: Ranker | None = None,
) -> None:
    """Writes the hard negatives of the training queries to `place.folder`.

    In memory are queries × (last_rank + known positives of the query with the most) × 8 bytes.
    Every process takes part in the teacher's search; the first one does the rest.

    Args:
        source: who ranks the documents.
        rules: all but the rounds.
        data: the mixture and its prompts.
        ranker: the teacher, if it is the teacher.

    Raises:
        UserError: too few were found; the table of what was found is printed before.
    """
    relevance = Relevance(collection, "train", Members.of(data, collection))
    depth = min(len(collection.doc_ids), rules.last_rank + relevance.width)
    if ranker is not None:
        ranking = _by_teacher(ranker, collection, place, relevance, depth)
    if not mesh_lib.first_process():
        return
    least = rules.min_found
    if source == "bm25":
        ranking = _by_bm25(data, collection, relevance, depth)
    if source == "judged":
        ranking = _judged(collection, relevance)
        most = ranking.rows.shape[1]
        rules = MineConfig(last_rank=most, negatives=min(rules.negatives, most))
    chosen, window = choose(ranking, relevance, collection.query_ids, rules, seed)
    facts = statistics(chosen, window, ranking)
    Console(stderr=True, width=None if sys.stderr.isatty() else WIDTH).print(_table(facts, source))
    _check_found(facts, least)
    made_from = {"inputs": place.inputs, "corpus": collection.fingerprint, "source": source}
    if ranker is not None:
        made_from["teacher"] = ranker.query.identity
    _write(place.folder, chosen, facts, made_from)


def open_negatives(folder: Path) -> Negatives:
    """Reads what `mine` wrote.

    Raises:
        UserError: a file is missing, cut or changed.
    """
    manifest = read_manifest(folder, "mine", _REDO, {"files": [ENTRY]})
    check_files(folder, manifest["files"], _REDO)
    return Negatives.read(folder / FILE, _REDO)


def content(folder: Path) -> str:
    """The content hash of the negatives in a folder."""
    return file_hash(folder / FILE)


def _by_teacher(
    ranker: Ranker, collection: Collection, place: Place, relevance: Relevance, depth: int
) -> Ranking:
    """Exact search over all documents."""
    mesh, tokens = place.mesh, place.workdir.tokens
    encoder = load_encoder(ranker.query, ranker.encode, mesh)
    given = collection, ranker.vectors, tokens, ranker.encode, mesh
    documents = side_vectors(ranker.doc, *given).on_disk()
    texts = (("", q.text) for q in collection.queries)
    key = f"{collection.fingerprint}-queries"
    table = token_table(texts, ranker.query.cfg, encoder.tokenizer, tokens, key)
    with progress("encode train queries", total=len(relevance), unit="texts") as bar:
        queries = encoder.unit(encoder.encode_table(table, relevance.query_rows, bar))
    with progress("mine", total=len(relevance), unit="queries") as bar:
        ranking = ranked(queries, documents, relevance, depth, ranker.exact, mesh)
        bar.advance(len(relevance))
    return ranking


def ranked(
    queries: np.ndarray,
    documents: RowsOnDisk,
    relevance: Relevance,
    depth: int,
    cfg: ExactConfig,
    mesh: Mesh,
) -> Ranking:
    """The best documents of each example by exact search, with what `choose` compares them to.

    Args:
        queries: [q, D] unit vectors of the examples' queries.
    """
    scores, rows = exact_search(queries, documents, depth, cfg, mesh)
    mean = queries @ mean_row(documents)
    return Ranking(rows, scores, best_relevant(queries, documents, relevance), mean)


def mean_row(documents: RowsOnDisk) -> np.ndarray:
    """float32 [D]."""
    total = np.zeros(documents.shape[1])
    for start in range(0, documents.shape[0], _ROWS):
        total += documents[start : start + _ROWS].sum(axis=0, dtype=np.float64)
    return (total / documents.shape[0]).astype(np.float32)


def best_relevant(queries: np.ndarray, documents: RowsOnDisk, relevance: Relevance) -> np.ndarray:
    """float32 [q], the score of the best of each query's own relevant documents."""
    examples, rows = relevance.pairs()
    best = np.full(len(relevance), -np.inf, np.float32)
    for start in range(0, len(rows), _PAIRS):
        part = slice(start, start + _PAIRS)
        scores = np.einsum("pd,pd->p", queries[examples[part]], documents.take(rows[part]))
        np.maximum.at(best, examples[part], scores)
    return best


def _by_bm25(data: DataConfig, collection: Collection, relevance: Relevance, depth: int) -> Ranking:
    wanted = [collection.queries[int(row)] for row in relevance.query_rows]
    queries = list(bare(data, wanted))
    row_of = {doc_id: row for row, doc_id in enumerate(collection.doc_ids)}
    rows = np.full((len(queries), depth), -1, np.int32)
    scores = np.full((len(queries), depth), -np.inf, np.float32)
    with progress("mine (bm25)", total=len(queries), unit="queries") as bar:
        run, _ = bm25_run(bare(data, collection.documents), queries, depth)
        bar.advance(len(queries))
    for place, query in enumerate(queries):
        for rank, (doc_id, score) in enumerate(run[query.id]):
            rows[place, rank], scores[place, rank] = row_of[doc_id], score
    return Ranking(rows, scores)


def _judged(collection: Collection, relevance: Relevance) -> Ranking:
    """What the training split judges not relevant, without scores."""
    row_of = {doc_id: row for row, doc_id in enumerate(collection.doc_ids)}
    qrels, ids = collection.qrels("train"), collection.query_ids
    found = [
        [row_of[doc_id] for doc_id, grade in qrels[ids[row]].items() if grade <= 0]
        for row in relevance.query_rows
    ]
    rows = np.full((len(found), max(1, *map(len, found))), -1, np.int32)
    for place, docs in enumerate(found):
        rows[place, : len(docs)] = docs
    return Ranking(rows, np.full(rows.shape, np.nan, np.float32))


def statistics(chosen: Negatives, window: Window, ranking: Ranking) -> dict[str, Any]:
    """What `statistics.json` says: counts, and quantiles of scores by kind of document."""
    real = chosen.doc_rows >= 0
    kinds = {
        "in the window": window.scores,
        "too near the relevant": window.scores[~window.low_enough],
        "hard negatives": chosen.scores[real],
    }
    if ranking.relevant is not None and ranking.mean is not None:
        head = {"mean of all": ranking.mean, "best relevant": ranking.relevant}
        behind = ranking.relevant[:, None] - chosen.scores
        kinds = head | kinds | {"relevant − negative": behind[real]}
    wanted, found = real.size, int(real.sum())
    return {
        "queries": len(real),
        "wanted": wanted,
        "found": found,
        "share": found / wanted,
        "queries_without": int((~real.any(axis=1)).sum()),
        "scores": {kind: _quantiles(values) for kind, values in kinds.items()},
    }


def _quantiles(values: np.ndarray) -> dict[str, Any]:
    """Count and quantiles; None for each where there are no scores."""
    scores = values[np.isfinite(values)]
    found = np.percentile(scores, QUANTILES).tolist() if len(scores) else [None] * len(QUANTILES)
    return {"count": len(values)} | {f"{q}%": x for q, x in zip(QUANTILES, found, strict=True)}


def _table(facts: dict[str, Any], source: str) -> Table:
    title = (
        f"hard negatives ({source}): {facts['found']} of {facts['wanted']} wanted "
        f"({facts['share']:.1%}); {facts['queries_without']} of {facts['queries']} queries without"
    )
    table = Table("score", "documents", *(f"{q} %" for q in QUANTILES), title=title)
    for kind, row in facts["scores"].items():
        numbers = ["–" if row[f"{q}%"] is None else f"{row[f'{q}%']:.3f}" for q in QUANTILES]
        table.add_row(kind, str(row["count"]), *numbers)
    return table


def _check_found(facts: dict[str, Any], least: float) -> None:
    if facts["share"] < least:
        raise bad_input(
            "--mine.min_found",
            f"{facts['found']} hard negatives found, {facts['share']:.1%} of those wanted",
            f"at least {least:.1%}",
            "raise --mine.last_rank, lower the margin that drops most, or ask for fewer with "
            "--mine.negatives",
        )


def _write(
    folder: Path, chosen: Negatives, facts: dict[str, Any], made_from: dict[str, Any]
) -> None:
    partial = partial_folder(folder)
    np.savez(partial / FILE, **dataclasses.asdict(chosen))
    (partial / STATISTICS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    files = [file_entry(partial / name) for name in (FILE, STATISTICS)]
    write_manifest(partial, made_from | {"files": files})
    put_in_place(partial, folder)
