"""A teacher that is known by its vectors: query texts with the vectors that it gave them, such as
those of an embedding service, in place of its query tower. Stage 2 needs no more.

Texts of held-out queries are watched and never learned. Vectors that cannot be of the teacher that
the document vectors are from are refused, where that can be told.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from scalingnote_jax.brought.parquet_columns import keyed_vectors, read_column
from scalingnote_jax.brought.same_space import FEW, agreement, check_same_space
from scalingnote_jax.brought.vector_files import files_hash
from scalingnote_jax.config import DistillConfig
from scalingnote_jax.config.towers import BY_VECTORS
from scalingnote_jax.data.augment.held_out import HeldOut
from scalingnote_jax.data.augment.query_texts import QueryTexts
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.data.order import Draw, keyed
from scalingnote_jax.data.sources.base import fold
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import bad_input
from scalingnote_jax.hashing import content_hash
from scalingnote_jax.progress import say
from scalingnote_jax.train.stage2 import Lesson
from scalingnote_jax.vectors.encoder import load_encoder
from scalingnote_jax.vectors.store import StoreWriter, VectorStore
from scalingnote_jax.vectors.taught import Taught
from scalingnote_jax.workflow.engine import Place

FIELD = "--distill.query_vectors"
_WATCHED = 10  # the most of the texts that are watched, where no dev query is: one in so many


def content(settings: Any) -> str:
    """What the texts and their vectors are made from: the content of the file."""
    return files_hash(settings.distill.query_vectors, FIELD)


def given_texts(
    cfg: DistillConfig, lesson: Lesson, collection: Collection, documents: Path | None, place: Place
) -> Taught:
    """The texts of `cfg.query_vectors` and a store of their vectors, as the teacher's tower would
    give them.

    Args:
        documents: the folder of the document vectors, if they are there.

    Raises:
        UserError: the file is none, a vector is not one, the width is not the documents', or the
            vectors are of another teacher.
    """
    path = _file(cfg.query_vectors)
    texts, vectors = _read(path)
    store = VectorStore.open(documents) if documents else None
    if store is not None:
        _check_width(path, vectors, store)
        check_same_space(str(path), vectors, store, lesson.seed)
    if lesson.teacher.cfg.weights != BY_VECTORS:
        _check_tower(path, texts, vectors, lesson, place)
    found = chosen_texts(cfg, texts, collection, lesson.seed)
    watched = found.probe(cfg.probe_queries, lesson.seed)
    places = {text: row for row, text in enumerate(texts)}
    rows = np.array([places[text] for text in (*found.learned, *watched)], np.int64)
    folder = place.workdir.embeddings("teacher", "distill")
    manifest = {
        "checkpoint": lesson.teacher.identity,
        "texts": content_hash([*found.learned, *watched]),
        "normalised": False,
    }
    if mesh_lib.first_process():
        with StoreWriter(folder, vectors.shape[1], manifest, len(rows), cfg.cache_dtype) as writer:
            writer.add([str(i) for i in range(len(rows))], vectors[rows])
            writer.close()
    mesh_lib.barrier("query vectors")
    return Taught(found, watched, VectorStore.open(folder))


def chosen_texts(
    cfg: DistillConfig, texts: list[str], collection: Collection, seed: int
) -> QueryTexts:
    """Which of the texts are learned: not those of held-out queries, of which the dev split's are
    watched; without such, one in ten is, of `probe_queries` at most.
    """
    held_out = HeldOut.of(collection, collection.query_prompts.values())
    kept = [text for text in texts if not held_out.holds(text)]
    if left := len(texts) - len(kept):
        say(f"distill: {left} texts of {FIELD} are held-out queries: not learned")
    known = {fold(text) for text in held_out.dev}
    dev = [text for text in texts if fold(text) in known]
    count = 0 if dev else min(cfg.probe_queries, len(kept) // _WATCHED)
    order = np.argsort(keyed(seed, Draw.PROBE, np.arange(len(kept))), kind="stable")
    watched, rest = np.sort(order[:count]), np.sort(order[count:])
    if cfg.max_queries:
        rest = np.sort(order[count:][: cfg.max_queries])
    if not len(rest):
        given = f"{len(texts)} texts, none of them to learn from"
        raise bad_input(FIELD, given, "texts that are no held-out queries", "add some")
    learned = [kept[i] for i in rest]
    return QueryTexts(learned, np.zeros(len(rest), np.int32), [kept[i] for i in watched], dev)


def _file(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_file() or path.suffix != ".parquet":
        given = f"{name!r} is not there" if not path.is_file() else f"{name!r}"
        raise bad_input(FIELD, given, "a Parquet file with text and vector", "check the path")
    return path


def _read(path: Path) -> tuple[list[str], np.ndarray]:
    """Each text once, with its first vector."""
    every = read_column(path, "text")
    vectors = np.concatenate(list(keyed_vectors(path, "vector")))
    lengths = np.linalg.norm(vectors, axis=1)
    wrong = ~np.isfinite(lengths) | (lengths == 0)
    if wrong.any():
        row = int(np.argmax(wrong))
        given = f"the vector of row {row} ({every[row][:40]!r}) holds NaN, infinity or only zeros"
        raise bad_input(str(path), given, "a vector", "leave the row out, or make it again")
    first: dict[str, int] = {}
    for row, text in enumerate(every):
        first.setdefault(text, row)
    if more := len(every) - len(first):
        say(f"distill: {more} rows of {path.name} repeat a text: its first vector counts")
    return list(first), vectors[list(first.values())]


def _check_width(path: Path, vectors: np.ndarray, store: VectorStore) -> None:
    whole = store.manifest.get("brought", {}).get("dim", store.dim)
    if vectors.shape[1] != whole:
        given, fix = f"vectors of {vectors.shape[1]} numbers", "name those of the same teacher"
        raise bad_input(str(path), given, f"{whole}, as the document vectors", fix)


def _check_tower(
    path: Path, texts: list[str], vectors: np.ndarray, lesson: Lesson, place: Place
) -> None:
    """The tower is here as well: a few of the texts must have its vectors."""
    encoder = load_encoder(lesson.teacher, lesson.encode, place.mesh)
    if encoder.tower.dim != vectors.shape[1]:
        given, fix = f"vectors of {vectors.shape[1]} numbers", "name those of this tower"
        raise bad_input(str(path), given, f"the tower's {encoder.tower.dim}", fix)
    agreement(str(path), "texts", vectors[:FEW], lambda: encoder.encode(texts[:FEW]))
