"""Several documents in one row of tokens, so that little of a batch is padding.

Each document gets a number in its row, from 1; the towers see to it that none sees another
(`models/ops.mask_bias`), and `slots` find each document's vector again. Not for queries: they are
short, and their buckets fit.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from scalingnote_jax.text.tokens import TokenTable

SHORT = 8  # tokens of a document; of still shorter ones a row is left with room

_ROW_STEPS = 32  # rows of packed documents come in steps of this part of their usual number


@dataclass(frozen=True)
class Part:
    """What a process makes of each batch.

    Attributes:
        index, count: of the processes.
        pack_rows_by: packs documents into rows of the last bucket's length, as many rows in each
            process as this divides; 0 pads each document instead.
        own_rows: of so many packed rows of all processes, those that are to be this process's,
            ascending; None: one run, in the order of the processes.
    """

    index: int = 0
    count: int = 1
    pack_rows_by: int = 0
    own_rows: Callable[[int], np.ndarray] | None = None


WHOLE = Part()


def texts_per_row(row_length: int) -> int:
    """S, the most documents in a row of so many tokens. A static size: each row has S vectors, an
    eighth as many as hidden states, and those that no document has are not looked at.
    """
    return max(1, row_length // SHORT)


@dataclass(frozen=True)
class Packing:
    """Where each of n texts lies.

    Attributes:
        rows: int64 [n], the row.
        starts: int64 [n], the place of its first token.
        numbers: int64 [n], its number in the row, from 1.
        num_rows: rows used.
    """

    rows: np.ndarray
    starts: np.ndarray
    numbers: np.ndarray
    num_rows: int


def pack(lengths: np.ndarray, row_length: int, per_row: int) -> Packing:
    """Best fit, longest first: each text goes where the least room is left over.

    Args:
        lengths: [n], none longer than `row_length`.
        per_row: the most texts in a row.
    """
    rows, starts, numbers = (np.zeros(len(lengths), np.int64) for _ in range(3))
    room: list[tuple[int, int]] = []  # (tokens left, row) of rows that can take more, sorted
    counts: list[int] = []
    for i in np.argsort(-lengths, kind="stable").tolist():
        size = int(lengths[i])
        at = bisect_left(room, (size, -1))
        if at == len(room):
            left, row = row_length, len(counts)
            counts.append(0)
        else:
            left, row = room.pop(at)
        counts[row] += 1
        rows[i], starts[i], numbers[i] = row, row_length - left, counts[row]
        if counts[row] < per_row and left > size:
            insort(room, (left - size, row))
    return Packing(rows, starts, numbers, len(counts))


def fill(
    table: TokenTable, texts: np.ndarray, packing: Packing, num_rows: int, row_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and segment numbers, int32 [num_rows, row_length] each, of the packed `texts` [n] of
    the table; padding is 0 in both.
    """
    lengths = table.lengths[texts]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    target = np.repeat(packing.rows * row_length + packing.starts, lengths) + within
    tokens, segments = (np.zeros(num_rows * row_length, np.int32) for _ in range(2))
    tokens[target] = table.ids[np.repeat(table.offsets[texts], lengths) + within]
    segments[target] = np.repeat(packing.numbers, lengths)
    return tokens.reshape(num_rows, -1), segments.reshape(num_rows, -1)


def packed(
    table: TokenTable, of_processes: Sequence[np.ndarray], length: int, part: Part
) -> dict[str, np.ndarray]:
    """A process's documents of a batch, several in a row.

    Args:
        table: the documents' tokens.
        of_processes: [b, G] int32 of each process, rows of the table.
        length: of a packed row.

    Returns:
        doc_tokens and doc_segments [R, length] int32; doc_slots [b, G] int32, the place of each
        document among all rows of all processes; and where the table knows the titles,
        doc_beginnings, as doc_segments.
    """
    per_row, lengths, own = texts_per_row(length), table.lengths, of_processes[part.index]
    packings = [pack(lengths[docs.ravel()], length, per_row) for docs in of_processes]
    # All processes have as many rows; in steps, as each number is compiled.
    usual = own.size * float(lengths.mean()) / length
    by = part.pack_rows_by * max(1, int(usual / (_ROW_STEPS * part.pack_rows_by)))
    num_rows = -(-max(p.num_rows for p in packings) // by) * by
    packing = packings[part.index]
    tokens, segments = fill(table, own.ravel(), packing, num_rows, length)
    if part.own_rows is None:
        places = part.index * num_rows + np.arange(num_rows)
    else:
        places = part.own_rows(num_rows * part.count)
    slots = places[packing.rows] * per_row + packing.numbers - 1
    documents = {
        "doc_tokens": tokens,
        "doc_segments": segments,
        "doc_slots": slots.astype(np.int32).reshape(own.shape),
    }
    if table.beginnings is not None:
        _, segments = fill(table.beginnings, own.ravel(), packing, num_rows, length)
        documents["doc_beginnings"] = segments
    return documents
