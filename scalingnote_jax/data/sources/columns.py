"""Tables in text files: which column is which, by a header or by their number; and judgements,
which every source with files reads from here.

Not for what a cell may hold: see `records.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from scalingnote_jax.data.sources.lines import read_lines
from scalingnote_jax.data.sources.records import Judgement, grade_of, is_grade
from scalingnote_jax.errors import bad_input

Columns = Mapping[str, frozenset[str]]
"""What a table holds → the names that a header may have for it, in lower case with hyphens."""

JUDGED: Columns = {
    "query": frozenset({"query-id", "queryid", "qid", "query", "topic", "topic-id"}),
    "document": frozenset(
        {"corpus-id", "doc-id", "docid", "docno", "document-id", "document", "pid", "passage-id"}
    ),
    "grade": frozenset({"score", "grade", "relevance", "rel", "label"}),
}
# Without a header: BEIR's and MS MARCO's three columns, and TREC's four
_BY_WIDTH = {3: (0, 1, 2), 4: (0, 2, 3)}
_EXPECTED = (
    "the columns qid pid grade or qid 0 pid grade, or a header that names query-id, corpus-id and "
    "score"
)


def header(cells: Sequence[str], columns: Columns) -> dict[str, int] | None:
    """Column → its place, if the cells name all of `columns`; else they are no header. Columns of
    other names are passed over.
    """
    names = [cell.strip().lower().replace("_", "-") for cell in cells]
    found = {
        column: next((i for i, name in enumerate(names) if name in known), -1)
        for column, known in columns.items()
    }
    return None if -1 in found.values() else found


def read_judgements(path: Path) -> Iterator[Judgement]:
    """The judgements of a file, one a line, with tabs or spaces between the columns. With a header
    the columns are in any order; without one they are query, document, grade, or TREC's four.
    """
    fix = "write one judgement a line, all lines alike"
    places: tuple[int, ...] = ()
    width = 0
    for where, line in read_lines(path):
        cells = line.split("\t") if "\t" in line else line.split()
        if not places:
            width = len(cells)
            named = header(cells, JUDGED)
            places = tuple(named.values()) if named else _BY_WIDTH.get(width, ())
            if not places or (not named and not is_grade(cells[places[-1]])):
                given = f"{width} columns: {line[:80]!r}"
                raise bad_input(where, given, _EXPECTED, fix)
            if named:
                continue
        if len(cells) != width:
            given, expected = f"{len(cells)} columns: {line[:80]!r}", f"{width}, as further up"
            raise bad_input(where, given, expected, fix)
        query_id, doc_id, grade = (cells[place] for place in places)
        yield where, query_id, doc_id, grade_of(where, grade)
