"""Who is relevant to whom in one split, as arrays: drawing positives and negatives, masking.

Known positives are kept as groups of equal documents. For a query they include what is relevant to
its duplicates, as the same question asked twice has the same answers, and documents that have the
query's own text: those are never its negatives. Judgements of other splits are not looked at: they
would leak what is tested.
"""

from __future__ import annotations

import numpy as np

from scalingnote_jax.data.collection import Collection
from scalingnote_jax.data.members import Members
from scalingnote_jax.data.order import Draw, draw, keyed
from scalingnote_jax.errors import bad_input
from scalingnote_jax.progress import say

_TRIES = 16  # draws before a negative is taken from an explicit list of what is left


class Relevance:
    """The judgements of a split, for the queries that have a relevant document: the examples.

    In a mixture of collections a query's random and mined negatives are of its own collection.

    Attributes:
        query_rows: int32 [examples], rows of the collection, in its order.
        width: of the query with the most, its known positives, counted as different documents.
    """

    def __init__(self, collection: Collection, split: str, members: Members | None = None):
        qrels = collection.qrels(split)
        row_of = {doc_id: row for row, doc_id in enumerate(collection.doc_ids)}
        positives = {
            row: sorted(row_of[doc_id] for doc_id, grade in grades.items() if grade > 0)
            for row, query_id in enumerate(collection.query_ids)
            if (grades := qrels.get(query_id))
        }
        positives = {row: docs for row, docs in positives.items() if docs}
        self.query_rows = np.fromiter(positives, np.int32)
        self._doc_groups = collection.doc_groups
        self._counts = np.array([len(docs) for docs in positives.values()], np.int64)
        self._starts = np.cumsum(self._counts) - self._counts
        self._docs = np.array([d for docs in positives.values() for d in docs], np.int32)
        self._set_known(collection.query_groups[self.query_rows], collection.doc_text_groups)
        starts, of_query = np.array([0, len(self._doc_groups)]), np.zeros(len(self), np.int64)
        if members is not None:
            starts, of_query = members.doc_starts, members.of_query[self.query_rows]
        self._first, self._end = starts[of_query], starts[of_query + 1]

    def __len__(self) -> int:
        return len(self.query_rows)

    def _set_known(self, query_groups: np.ndarray, doc_text_groups: np.ndarray) -> None:
        """Known positives as sorted keys `query group · document groups + document group`."""
        texts, self._group = np.unique(query_groups, return_inverse=True)  # numbered without gaps
        self._num_groups = int(self._doc_groups.max()) + 1
        own_docs = np.flatnonzero(np.isin(doc_text_groups, texts))
        own = np.searchsorted(texts, doc_text_groups[own_docs])
        owners = np.concatenate([np.repeat(self._group, self._counts), own]).astype(np.int64)
        docs = np.concatenate([self._docs, own_docs])
        self._known_keys = np.unique(owners * self._num_groups + self._doc_groups[docs])
        known_owner = self._known_keys // self._num_groups
        self._known_counts = np.bincount(known_owner, minlength=self._group.max(initial=-1) + 1)
        self._known_starts = np.cumsum(self._known_counts) - self._known_counts
        self.width = int(self._known_counts.max(initial=1))

    def known_groups(self, examples: np.ndarray) -> np.ndarray:
        """int32 [b, P]: the groups of all documents known to be relevant, or of the query's own
        text, padded with -1.
        """
        owners = self._group[examples]
        places = np.arange(self.width)
        real = places < self._known_counts[owners][:, None]
        keys = self._known_keys[np.where(real, self._known_starts[owners][:, None] + places, 0)]
        return np.where(real, keys % self._num_groups, -1).astype(np.int32)

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """int64 [pairs] examples and int32 [pairs] rows of their own relevant documents."""
        return np.repeat(np.arange(len(self)), self._counts), self._docs

    def groups(self, docs: np.ndarray) -> np.ndarray:
        """The groups of equal documents, which are rows in any shape."""
        return self._doc_groups[docs]

    def is_known(self, examples: np.ndarray, docs: np.ndarray) -> np.ndarray:
        """bool [b, ...]: which documents [b, ...] are equal to one known to be relevant to their
        example [b] or to one of the same query text, or have that query's own text.
        """
        owners = self._group[examples].astype(np.int64).reshape(-1, *[1] * (docs.ndim - 1))
        keys = owners * self._num_groups + self._doc_groups[docs]
        places = np.minimum(np.searchsorted(self._known_keys, keys), len(self._known_keys) - 1)
        return self._known_keys[places] == keys

    def is_own(self, examples: np.ndarray, docs: np.ndarray) -> np.ndarray:
        """bool [b, k]: which documents [b, k] are of the collection of their example [b]."""
        return (docs >= self._first[examples, None]) & (docs < self._end[examples, None])

    def spans(self) -> list[list[int]]:
        """First row of documents and the one behind the last, of each collection that an example is
        of.
        """
        return np.unique(np.stack([self._first, self._end], axis=1), axis=0).tolist()

    def check_negatives(self, count: int, section: str = "train") -> None:
        """
        Args:
            section: of the config, that the number is from.

        Raises:
            UserError: some query has fewer than `count` different texts that are not relevant.
        """
        least = min((len(np.unique(self._doc_groups[a:b])) for a, b in self.spans()), default=0)
        left = least - self.width
        if not 0 <= count <= left:
            raise bad_input(
                f"--{section}.negatives_per_query",
                f"{count}",
                f"from 0 to {left}, the different documents not relevant to some query",
                "lower it",
            )

    def draw(
        self, seed: int, epoch: int, negatives: int, mined: np.ndarray | None = None
    ) -> np.ndarray:
        """int32 [examples, 1 + negatives]: a relevant document's row, then others' rows.

        The others are of different groups, none of them known to be relevant to the query: first of
        `mined` [examples, M], hard negatives padded with -1, as many as there are, and random
        documents where those are too few.
        """
        rows = self.query_rows
        places = self._starts + draw(self._counts, seed, epoch, Draw.POSITIVE, rows)
        docs = np.full((len(rows), 1 + negatives), -1, np.int32)
        docs[:, 0] = self._docs[places]
        if mined is not None:
            hard = _shuffled(mined, seed, epoch, rows)[:, :negatives]
            docs[:, 1 : 1 + hard.shape[1]] = hard
        for column in range(1, 1 + negatives):
            open_examples = np.flatnonzero(docs[:, column] < 0)
            for attempt in range(_TRIES):
                key = (seed, epoch, Draw.NEGATIVE, column, attempt, rows[open_examples])
                first = self._first[open_examples]
                found = first + draw(self._end[open_examples] - first, *key)
                docs[open_examples, column] = found
                open_examples = open_examples[self._refused(open_examples, docs, column)]
            for example in open_examples:
                docs[example, column] = self._from_rest(seed, epoch, int(example), docs, column)
        return docs

    def _refused(self, examples: np.ndarray, docs: np.ndarray, column: int) -> np.ndarray:
        """bool: whether the draws of `column` are relevant, or repeat an earlier one."""
        groups = self._doc_groups[docs[examples, : column + 1]]
        relevant = self.is_known(examples, docs[examples, column])
        return relevant | (groups[:, 1:column] == groups[:, column, None]).any(axis=1)

    def _from_rest(
        self, seed: int, epoch: int, example: int, docs: np.ndarray, column: int
    ) -> np.int64:
        """One draw from the list of all that may still be drawn: for queries with few negatives."""
        drawn = self._doc_groups[docs[example, 1:column]]
        taken = [self.known_groups(np.array([example]))[0], drawn]
        own = slice(self._first[example], self._end[example])
        rest = self._first[example] + np.flatnonzero(
            ~np.isin(self._doc_groups[own], np.concatenate(taken))
        )
        key = (seed, epoch, Draw.NEGATIVE, column, _TRIES, self.query_rows[example])
        return rest[draw(len(rest), *key)]


def without_negative(relevance: Relevance, order: np.ndarray, docs: np.ndarray) -> np.ndarray:
    """bool [steps, B]: queries whose batch holds only documents known to be relevant to them.

    Args:
        order: int64 [steps, B], examples.
        docs: int32 [examples, G], the documents of each.
    """
    groups = relevance.groups(docs[order].reshape(len(order), -1))  # [steps, B·G]
    ordered = np.sort(groups, axis=1)
    different = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1)
    none = np.zeros(order.shape, bool)
    # A batch of more texts than any query has relevant ones gives each a negative
    for step in np.flatnonzero(different <= relevance.width):
        of_batch = np.unique(docs[order[step]].ravel())
        pairs = np.broadcast_to(of_batch, (order.shape[1], len(of_batch)))
        none[step] = relevance.is_known(order[step], pairs).all(axis=1)
    return none


def check_epoch(section: str, relevance: Relevance, order: np.ndarray, docs: np.ndarray) -> None:
    """Says how many queries of the first epoch have no negative; `section`: of the config.

    Raises:
        UserError: none has one.
    """
    none = without_negative(relevance, order, docs)
    if none.all():
        raise bad_input(
            f"--{section}.batch_size",
            f"{order.shape[1]}, and no query of an epoch has a negative in its batch",
            "documents that are not relevant: without them the loss is 0",
            f"raise it or --{section}.negatives_per_query, or look for documents that repeat",
        )
    if none.any():
        batches = int(none.all(axis=1).sum())
        say(
            f"{section}: {int(none.sum()):,} of {none.size:,} queries of the first epoch have no "
            f"negative in their batch ({batches:,} of {len(none):,} batches have none at all); "
            f"raise --{section}.batch_size or --{section}.negatives_per_query"
        )


def _shuffled(mined: np.ndarray, seed: int, epoch: int, rows: np.ndarray) -> np.ndarray:
    """Each query's hard negatives [examples, M] in an order of this epoch, the padding behind."""
    keys = keyed(seed, epoch, Draw.HARD, rows[:, None], np.arange(mined.shape[1]))
    order = np.argsort(np.where(mined < 0, np.iinfo(np.uint64).max, keys), axis=1)
    return np.take_along_axis(mined, order, axis=1)
