"""Whether vectors are of the teacher that they should be of: compared with those of its tower, or
told from queries and documents alone.

Queries of the same space find documents that are nearer than what vectors of no relation find. As
such serve the same queries with their components in another order: a space of the same shape that
has nothing to do with the documents'. Not a proof: what passes may still be of another model that
was trained alike.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scalingnote_jax.errors import bad_input
from scalingnote_jax.progress import say
from scalingnote_jax.retrieval.exact import exact_search
from scalingnote_jax.vectors.encoder import unit_rows
from scalingnote_jax.vectors.store import VectorStore

_QUERIES, _DOCUMENTS = 256, 20_000  # looked at, evenly spaced
_SHUFFLES = 8
FEW = 16  # vectors that are compared with a tower's own
_ANOTHER = 0.5  # mean cosine of vectors below which they are of another model


def nearness(queries: np.ndarray, documents: np.ndarray, seed: int) -> tuple[float, float]:
    """The mean cosine of a query's best document, and the highest such mean over shuffles of the
    queries' components.

    Args:
        queries: [q, D] of any length.
        documents: [n, D] unit vectors.
    """
    unit = unit_rows(queries)
    rng = np.random.default_rng(seed)
    shuffles = [unit, *(unit[:, rng.permutation(unit.shape[1])] for _ in range(_SHUFFLES))]
    means = [float(exact_search(x, documents, 1)[0].mean()) for x in shuffles]
    return means[0], max(means[1:])


def check_same_space(place: str, queries: np.ndarray, store: VectorStore, seed: int) -> None:
    """
    Args:
        place: of the queries, for the message.
        queries: [q, D], or wider than the documents, which are cut then.

    Raises:
        UserError: they find nothing that unrelated vectors would not find as well.
    """
    rows = np.linspace(0, len(store) - 1, min(len(store), _DOCUMENTS)).astype(np.int64)
    asked = np.linspace(0, len(queries) - 1, min(len(queries), _QUERIES)).astype(np.int64)
    documents = store.on_disk().take(rows)
    found, by_chance = nearness(queries[asked, : store.dim], documents, seed)
    if found <= by_chance:
        given = (
            f"vectors of another teacher: a query's best document has a cosine of {found:.3f}, and "
            f"{by_chance:.3f} with its components shuffled"
        )
        expected = f"vectors by the teacher of {store.dir.name}"
        raise bad_input(place, given, expected, "name the two files of one model")
    say(f"{place}: a query's best document has a cosine of {found:.3f}, by chance {by_chance:.3f}")


def agreement(
    place: str, what: str, vectors: np.ndarray, by_tower: Callable[[], np.ndarray]
) -> None:
    """Says how near vectors are to those of the tower that they should be by.

    Raises:
        UserError: they are of another one.
    """
    pairs = vectors, by_tower()
    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in pairs)
    mean = float((first * second).sum(axis=1).mean())
    if mean < _ANOTHER:
        given = f"vectors of another teacher: mean cosine {mean:.3f} with the tower's own"
        raise bad_input(place, given, "vectors by the tower in the config", "name one of the two")
    say(f"{place}: mean cosine {mean:.4f} with the tower's own vectors of {len(vectors)} {what}")
