"""Which collection of a mixture a query and a document are of, and how batches are mixed of them.

The choice of a step stays a function of (seed, step): an epoch is a list of examples, as many of
each collection as its weight says, made before anything is read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.collection import Collection
from scalingnote_jax.data.order import Draw, epoch_order, keyed
from scalingnote_jax.data.sources.mixture import members
from scalingnote_jax.errors import bad_input


@dataclass(frozen=True)
class Members:
    """The collections of a mixture, in its order.

    Attributes:
        names: of m collections.
        of_query: int64 [queries], the number of each query's collection.
        doc_starts: int64 [m + 1]; the documents of collection i are rows doc_starts[i] to
            doc_starts[i + 1] - 1.
    """

    names: tuple[str, ...]
    of_query: np.ndarray
    doc_starts: np.ndarray

    @classmethod
    def of(cls, cfg: DataConfig, collection: Collection) -> Members | None:
        """None where the data are one collection."""
        names = tuple(members(cfg))
        if not names:
            return None
        numbers = {name: number for number, name in enumerate(names)}
        of_doc = [numbers[doc_id.partition(":")[0]] for doc_id in collection.doc_ids]
        of_query = [numbers[query_id.partition(":")[0]] for query_id in collection.query_ids]
        starts = np.searchsorted(of_doc, np.arange(len(names) + 1))
        return cls(names, np.array(of_query, np.int64), starts)


@dataclass(frozen=True)
class Mixing:
    """How the batches of training are mixed.

    Attributes:
        weights: of each collection, of any sum; (): each query once an epoch.
        single: whether all of a batch is of one collection.
    """

    members: Members
    weights: tuple[float, ...] = ()
    single: bool = False

    def check(self, of_example: np.ndarray, batch_size: int) -> None:
        """
        Raises:
            UserError: a collection with a weight has no example, or too few for a batch of its own,
                or so small a share that it would never be seen.
        """
        counts = np.bincount(of_example, minlength=len(self.members.names))
        shares = self._shares(counts, batch_size)
        for name, count, share, weight in zip(
            self.members.names, counts, shares, self.weights or counts, strict=True
        ):
            least = batch_size if self.single else 1
            if weight and (count < least or not share):
                raise bad_input(
                    "--data.mixture",
                    f"{name} has {count} training queries, and {share} of them in an epoch",
                    f"at least {least}",
                    "lower --train.batch_size, raise its weight, or leave it out",
                )

    def order(
        self,
        of_example: np.ndarray,
        sizes: np.ndarray,
        batch_size: int,
        window: int,
        seed: int,
        epoch: int,
    ) -> np.ndarray:
        """As `epoch_order`, but of as many examples of each collection as its weight says: where
        those are more than it has, some come again; where they are fewer, each epoch has others.

        Args:
            of_example: [n], the number of each example's collection.

        Returns:
            int64 [n // batch_size, batch_size].
        """
        counts = np.bincount(of_example, minlength=len(self.members.names))
        parts = [
            _cycled(np.flatnonzero(of_example == number), count, seed, epoch)
            for number, count in enumerate(self._shares(counts, batch_size))
        ]
        if not self.single:
            parts = [np.concatenate(parts)]
        batches = np.concatenate(
            [rows[epoch_order(sizes[rows], batch_size, window, seed, epoch)] for rows in parts]
        )
        if not self.single:
            return batches
        return batches[np.argsort(keyed(seed, epoch, Draw.BATCH, np.arange(len(batches))))]

    def _shares(self, counts: np.ndarray, batch_size: int) -> np.ndarray:
        """int64 [m], examples of an epoch of each collection, whole batches where these are single:
        the nearest to the weights that make n // batch_size batches (largest remainder).
        """
        unit = batch_size if self.single else 1
        units = counts.sum() // batch_size * batch_size // unit
        weights = np.array(self.weights or counts, np.float64)
        ideal = weights / weights.sum() * units
        whole = np.floor(ideal).astype(np.int64)
        rest = np.argsort(whole - ideal, kind="stable")[: units - whole.sum()]
        whole[rest] += 1
        return whole * unit


def _cycled(rows: np.ndarray, count: int, seed: int, epoch: int) -> np.ndarray:
    """`count` of the rows: permuted, and permuted anew when all have come."""
    turns = [
        rows[np.argsort(keyed(seed, epoch, Draw.MEMBER, turn, rows), kind="stable")]
        for turn in range(-(-count // max(1, len(rows))))
    ]
    return np.concatenate([rows[:0], *turns])[:count]
