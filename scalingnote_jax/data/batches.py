"""Batches as a function of (seed, step): nothing to save, nothing to restore.

Every process computes the choice of the whole batch and gathers the tokens of its own slice; the
global batch is the slices in the order of the processes. Shapes are length buckets that cover the
longest text of the global batch, so all processes compile the same. How rows are drawn: `order.py`.
Not for devices: the loop puts what comes from here on the mesh.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from scalingnote_jax.data.collection import Collection
from scalingnote_jax.data.members import Mixing
from scalingnote_jax.data.negatives import Negatives
from scalingnote_jax.data.order import EpochPlans, check_sizes, epoch_order
from scalingnote_jax.data.packing import WHOLE, Part, packed
from scalingnote_jax.data.relevance import Relevance, check_epoch
from scalingnote_jax.text.tokens import TokenTable, bucket_of

_THREADS = 2
_PREFETCH = 8  # batches made ahead: enough to hide a slow one, too few to matter for memory

Batch = dict[str, np.ndarray]


class Sampler(Protocol):
    """Whatever makes the batch of a step."""

    def batch(self, step: int) -> Batch:
        """This process's rows of the batch of `step`."""
        ...

    def ids(self, step: int) -> list[str]:
        """What the rows of the whole batch are called."""
        ...


@dataclass(frozen=True)
class PairTokens:
    """Tokens of all queries and documents of a collection, each by its own tower's tokenizer, and
    the lengths that batches are padded to.
    """

    queries: TokenTable
    documents: TokenTable
    query_buckets: tuple[int, ...]
    doc_buckets: tuple[int, ...]


@dataclass(frozen=True)
class BatchRules:
    """How batches are made, as in `TrainConfig`."""

    batch_size: int
    negatives_per_query: int
    bucket_window: int
    seed: int


@dataclass(frozen=True)
class _PairPlan:
    """An epoch: examples int64 [steps, B] and document rows int32 [examples, G]."""

    order: np.ndarray
    docs: np.ndarray


class PairSampler:
    """Batches of queries, each with a relevant document and G - 1 others.

    One example for each query of the training split with a relevant document; every epoch draws one
    of its relevant documents, and the others from its hard negatives if there are any, then from
    the documents that are not known to be relevant.

    Attributes:
        steps_per_epoch: full batches; what is left over is dropped, another part each epoch.
        num_examples: training queries with a relevant document.
    """

    def __init__(
        self,
        collection: Collection,
        tokens: PairTokens,
        rules: BatchRules,
        part: Part = WHOLE,
        mined: Negatives | None = None,
        mixing: Mixing | None = None,
    ):
        """
        Args:
            mined: hard negatives of the training split's examples in this collection.
            mixing: how batches are mixed of several collections; None: there is one.

        Raises:
            UserError: fewer examples than one batch, a batch that the processes cannot share, too
                few documents to draw negatives from, or no query with a negative in its batch.
        """
        assert len(tokens.queries) == len(collection.query_ids), "tokens of other queries"
        assert len(tokens.documents) == len(collection.doc_ids), "tokens of other documents"
        self._query_tokens, self._doc_tokens = tokens.queries, tokens.documents
        self._query_buckets, self._doc_buckets = tokens.query_buckets, tokens.doc_buckets
        self._query_groups, self._doc_groups = collection.query_groups, collection.doc_groups
        self._query_ids = collection.query_ids
        self._relevance = Relevance(collection, "train", mixing.members if mixing else None)
        batch_size, window = rules.batch_size, rules.bucket_window
        self._batch_size, self._window, self._seed = batch_size, window, rules.seed
        self._negatives, self._mined = rules.negatives_per_query, None
        if mined is not None:
            same = np.array_equal(mined.query_rows, self._relevance.query_rows)
            assert same, "hard negatives of other queries"
            # A ranker sees titles that the tower may not: see `Collection.as_shown`
            known = self._relevance.is_known(np.arange(len(mined.doc_rows)), mined.doc_rows)
            self._mined = np.where(known, -1, mined.doc_rows)
        self.num_examples = len(self._relevance)
        check_sizes("train", self.num_examples, batch_size, window, part.count)
        self.steps_per_epoch = self.num_examples // batch_size
        self._relevance.check_negatives(rules.negatives_per_query)
        self._mixing = mixing
        if mixing:
            self._of_example = mixing.members.of_query[self._relevance.query_rows]
            mixing.check(self._of_example, batch_size)
        self._slices = [_slice_of(batch_size, i, part.count) for i in range(part.count)]
        self._part = part
        self._plans = EpochPlans(self._plan)
        first = self._plans[0]
        check_epoch("train", self._relevance, first.order, first.docs)

    def rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The global choice: query rows int32 [B] and document rows int32 [B, G]."""
        examples, docs = self._chosen(step)
        return self._relevance.query_rows[examples], docs

    def ids(self, step: int) -> list[str]:
        """The ids of the queries of the whole batch."""
        return [self._query_ids[row] for row in self.rows(step)[0]]

    def batch(self, step: int) -> Batch:
        """This process's b rows of the batch.

        Returns:
            query_tokens int32, query_mask bool [b, Lq]; query_ids int32 [b] and doc_ids int32
            [b, G], numbers of groups of equal ones; positive_ids int32 [b, P], the document groups
            of all that is known to be relevant, padded with -1. Document 0 of G is relevant.
            And doc_tokens int32, doc_mask bool [b, G, Ld]; or of packed documents doc_tokens,
            doc_segments int32 [r, Ld] and doc_slots int32 [b, G]: document (i, g) of the batch is
            the text of number doc_slots % S + 1 in row doc_slots // S of all processes' rows.
            If the table of documents has beginnings, also doc_beginnings, as doc_mask or
            doc_segments, of those.
        """
        examples, docs = self._chosen(step)
        queries = self._relevance.query_rows[examples]
        query_length = _bucket(self._query_tokens, queries, self._query_buckets)
        documents = self._documents(docs)
        own = self._slices[self._part.index]
        examples, queries, docs = examples[own], queries[own], docs[own]
        query_tokens, query_mask = self._query_tokens.take(queries, query_length)
        return {
            "query_tokens": query_tokens,
            "query_mask": query_mask,
            **documents,
            "query_ids": self._query_groups[queries],
            "doc_ids": self._doc_groups[docs],
            "positive_ids": self._relevance.known_groups(examples),
        }

    def _documents(self, docs: np.ndarray) -> Batch:
        if self._part.pack_rows_by:
            of_processes = [docs[rows] for rows in self._slices]
            return packed(self._doc_tokens, of_processes, self._doc_buckets[-1], self._part)
        length = _bucket(self._doc_tokens, docs, self._doc_buckets)
        own = docs[self._slices[self._part.index]]
        tokens, mask = self._doc_tokens.take(own, length)
        documents = {"doc_tokens": tokens, "doc_mask": mask}
        if (titles := self._doc_tokens.beginnings) is not None:
            _, documents["doc_beginnings"] = titles.take(own, length)
        return documents

    def _chosen(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, number = divmod(step, self.steps_per_epoch)
        plan = self._plans[epoch]
        examples = plan.order[number]
        return examples, plan.docs[examples]

    def _plan(self, epoch: int) -> _PairPlan:
        docs = self._relevance.draw(self._seed, epoch, self._negatives, self._mined)
        queries = self._relevance.query_rows
        sizes = np.searchsorted(self._query_buckets, self._query_tokens.lengths[queries])
        if not self._part.pack_rows_by:  # packing is best among documents of all lengths
            # By document first, which costs most, and by query where documents need the same.
            longest = self._doc_tokens.lengths[docs].max(axis=1)
            doc_sizes = np.searchsorted(self._doc_buckets, longest)
            sizes = doc_sizes * (len(self._query_buckets) + 1) + sizes
        by = (sizes, self._batch_size, self._window, self._seed, epoch)
        if self._mixing is None:
            return _PairPlan(epoch_order(*by), docs)
        return _PairPlan(self._mixing.order(self._of_example, *by), docs)


class TextSampler:
    """Batches of single texts, for distillation: every row of a table once in an epoch, or those
    rows that the epoch is to have.

    Attributes:
        steps_per_epoch: full batches; what is left over is dropped, another part each epoch.
        num_examples: rows of the table, and of an epoch.
    """

    def __init__(
        self,
        tokens: TokenTable,
        buckets: Sequence[int],
        batch_size: int,
        bucket_window: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        epoch_rows: Callable[[int], np.ndarray] | None = None,
    ):
        """
        Args:
            epoch_rows: epoch → int64 [num_examples], its rows of the table, in any order.

        Raises:
            UserError: fewer texts than one batch, or a batch that the processes cannot share.
        """
        self._tokens, self._buckets = tokens, tuple(buckets)
        self.num_examples = len(tokens)
        check_sizes("distill", self.num_examples, batch_size, bucket_window, process_count)
        self.steps_per_epoch = self.num_examples // batch_size
        self._slice = _slice_of(batch_size, process_index, process_count)
        sizes = np.searchsorted(self._buckets, tokens.lengths)

        def plan(epoch: int) -> np.ndarray:
            rows = epoch_rows(epoch) if epoch_rows else np.arange(len(tokens))
            return rows[epoch_order(sizes[rows], batch_size, bucket_window, seed, epoch)]

        self._plans = EpochPlans(plan)

    def rows(self, step: int) -> np.ndarray:
        """The global choice: int64 [B], rows of the table."""
        epoch, number = divmod(step, self.steps_per_epoch)
        return self._plans[epoch][number]

    def ids(self, step: int) -> list[str]:
        """The rows of the whole batch, counted from 0: texts of a query log have no ids."""
        return [f"text {row}" for row in self.rows(step)]

    def batch(self, step: int) -> Batch:
        """This process's b rows: tokens int32, mask bool [b, L] and rows int32 [b]."""
        rows = self.rows(step)
        length = _bucket(self._tokens, rows, self._buckets)
        rows = rows[self._slice]
        tokens, mask = self._tokens.take(rows, length)
        return {"tokens": tokens, "mask": mask, "rows": rows.astype(np.int32)}


def iterate(sampler: Sampler, start_step: int, stop_step: int) -> Iterator[Batch]:
    """The batches of steps `start_step` to `stop_step` - 1, made ahead by Grain's threads.

    Threads, not processes: the work is NumPy gathers, and nothing is forked beside a running JAX.
    """
    import grain  # imports JAX

    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_PREFETCH)
    steps: Any = grain.MapDataset.range(start_step, stop_step).map(sampler.batch)
    batches = iter(steps.to_iter_dataset(options))
    try:
        yield from batches
    finally:
        batches.close()


def _bucket(tokens: TokenTable, rows: np.ndarray, buckets: Sequence[int]) -> int:
    return bucket_of(int(tokens.lengths[rows].max()), buckets)


def _slice_of(batch_size: int, process_index: int, process_count: int) -> slice:
    size = batch_size // process_count
    return slice(process_index * size, (process_index + 1) * size)
