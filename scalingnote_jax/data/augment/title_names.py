"""Names in titles, and the training queries that say them: "Is Worth House quiet?" with the title
"Worth House (hotel)" gives "Is … quiet?", which then asks about the names of all other documents.

A title is cut at its punctuation into segments. Where names stand, the training pairs show: a
slot, such as "the first segment" or "the second behind the words 'policy of'", counts if queries
say at least three different names of it. Not for which of the new queries are learned: see
`query_texts.py`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np

from scalingnote_jax.data.collection import Collection
from scalingnote_jax.data.order import Draw, keyed
from scalingnote_jax.data.sources.base import Document

_WORD = re.compile(r"\w+")
_SEPARATOR = re.compile(r"\s+[-–—|·/]\s+|\s*[:;,()\[\]：；，（）【】]\s*")
# Words that more of the titles have, as a share and in number, name a kind ("FAQ", "hotel")
_MOST_TITLES, _MOST_OF_FEW = 0.05, 5
_FEWEST_NAMES = 3  # so many different ones make a slot of names


@dataclass(frozen=True)
class Slot:
    """Where in a title a name stands: between these words of this segment."""

    segment: int
    before: tuple[str, ...]
    after: tuple[str, ...]

    def name(self, title: str) -> str:
        """What stands there; "" if the title has no such slot."""
        segments = _segments(title)
        if self.segment >= len(segments):
            return ""
        text = segments[self.segment]
        words, spans = _folded(text), [m.span() for m in _WORD.finditer(text)]
        first, end = len(self.before), len(words) - len(self.after)
        fits = tuple(words[:first]) == self.before and tuple(words[end:]) == self.after
        if first >= end or not fits:
            return ""
        # A segment that is a name is one with its punctuation
        start = 0 if first == 0 else spans[first][0]
        stop = len(text) if end == len(words) else spans[end - 1][1]
        return text[start:stop]


@dataclass(frozen=True)
class Template:
    """A training query with gaps in place of a name.

    Attributes:
        parts: what stands before, between and behind the gaps.
    """

    parts: tuple[str, ...]

    def filled(self, name: str) -> str:
        """The query about another."""
        return name.join(self.parts)


class TitleNames:
    """The names in the titles of a corpus.

    Attributes:
        names: each once, in the order of the documents.
        templates: one for each training query that says a name.
    """

    def __init__(self, titles: Sequence[str], pairs: Iterable[tuple[str, str]]):
        """
        Args:
            titles: of all documents.
            pairs: (training query, title of a document that is relevant to it).
        """
        is_name = _Rare(titles)
        found: list[tuple[str, Slot, Template]] = []
        said: defaultdict[Slot, set[str]] = defaultdict(set)
        for query, title in dict.fromkeys(pairs):
            best = max(_said(query, title), key=lambda x: len(x[0]), default=None)
            if best and is_name(best[0]):
                run, slot, template = best
                found.append((query, slot, template))
                said[slot].add(" ".join(run))
        often = [slot for slot, names in said.items() if len(names) >= _FEWEST_NAMES]
        self._slots = sorted(often, key=lambda p: (-len(p.before + p.after), -len(said[p])))
        kept = {query: template for query, slot, template in found if slot in self._slots}
        self.templates = list(kept.values())
        named = (self.name(t) for t in titles)
        self.names = list(dict.fromkeys(n for n in named if is_name(tuple(_folded(n)))))

    def name(self, title: str) -> str:
        """The name in a title: that of its most exact slot; "" if there is none."""
        return next((name for name in (p.name(title) for p in self._slots) if name), "")

    def swapped(self, times: int, seed: int) -> Iterator[str]:
        """Each template with `times` of the names: the names take turns, in an order drawn by the
        seed, so that each comes about as often.
        """
        if not self.names:
            return
        count = len(self.names)
        order = np.argsort(keyed(seed, Draw.NAME, np.arange(count)), kind="stable")
        for i, template in enumerate(self.templates):
            for j in range(min(times, count)):
                yield template.filled(self.names[order[(i * times + j) % count]])


def title_names(collection: Collection, documents: Iterable[Document]) -> TitleNames:
    """The names in the titles of these documents, as the training queries show them."""
    titles = [d.title for d in documents]
    texts = {q.id: q.text for q in collection.queries}
    judged = collection.qrels("train") if "train" in collection.splits else {}
    relevant = [
        (texts[query], doc_id)
        for query, grades in judged.items()
        for doc_id, grade in grades.items()
        if grade > 0
    ]
    ids = {doc_id for _, doc_id in relevant}
    rows = [row for row, doc_id in enumerate(collection.doc_ids) if doc_id in ids]
    title_of = {d.id: d.title for d in collection.documents.take(rows)}
    return TitleNames(titles, ((query, title_of[doc_id]) for query, doc_id in relevant))


class _Rare:
    """Whether a run of words stands in so few titles that it may be a name."""

    def __init__(self, titles: Sequence[str]):
        self._limit = max(_MOST_OF_FEW, int(_MOST_TITLES * len(titles)))
        self._of_word: defaultdict[str, list[tuple[str, ...]]] = defaultdict(list)
        for words in map(tuple, map(_folded, titles)):
            for word in set(words):
                self._of_word[word].append(words)

    def __call__(self, run: tuple[str, ...]) -> bool:
        if not run:
            return False
        titles = min((self._of_word[word] for word in run), key=len)
        length = len(run)
        found = 0
        for words in titles:
            found += any(words[i : i + length] == run for i in range(len(words) - length + 1))
            if found > self._limit:
                return False
        return True


def _folded(text: str) -> list[str]:
    return [w.casefold() for w in _WORD.findall(text)]


def _segments(title: str) -> list[str]:
    return [s for s in map(str.strip, _SEPARATOR.split(title)) if s]


def _said(query: str, title: str) -> Iterator[tuple[tuple[str, ...], Slot, Template]]:
    """For each segment of the title the longest run of its words that the query says."""
    said, spans = _folded(query), [m.span() for m in _WORD.finditer(query)]
    for number, segment in enumerate(_segments(title)):
        words = _folded(segment)
        match = SequenceMatcher(None, said, words, autojunk=False).find_longest_match()
        run = tuple(words[match.b : match.b + match.size])
        if run and len(run) < len(said):
            slot = Slot(number, tuple(words[: match.b]), tuple(words[match.b + match.size :]))
            yield run, slot, _without(query, run, said, spans)


def _without(
    query: str, run: tuple[str, ...], said: list[str], spans: list[tuple[int, int]]
) -> Template:
    """The query without the run, wherever it says it."""
    parts, begun, i = [], 0, 0
    while i + len(run) <= len(said):
        if tuple(said[i : i + len(run)]) == run:
            parts.append(query[begun : spans[i][0]])
            begun = spans[i + len(run) - 1][1]
            i += len(run)
        else:
            i += 1
    return Template((*parts, query[begun:]))
