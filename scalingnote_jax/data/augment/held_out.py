"""Which texts stage 2 must not learn: those of dev, test and further splits' queries, in whatever
case or white space, and whatever prompt of a mixture's collection stands in front.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scalingnote_jax.data.collection import Collection
from scalingnote_jax.data.sources.base import fold


@dataclass(frozen=True)
class HeldOut:
    """The held-out queries of a collection.

    Attributes:
        ids: of those that a split but train judges.
        dev: texts of those of the dev split.
        texts: of all of them, folded and without prompts.
        prompts: folded, that a text may begin with.
    """

    ids: frozenset[str]
    dev: list[str]
    texts: frozenset[str]
    prompts: tuple[str, ...]

    @classmethod
    def of(cls, collection: Collection, prompts: Iterable[str] = ()) -> HeldOut:
        """
        Args:
            prompts: that stand in front of the queries of a mixture's collections. A text is held
                out with, without and behind each of them.
        """
        judged = {split: set(collection.qrels(split)) for split in collection.splits}
        ids = set[str]().union(*(found for split, found in judged.items() if split != "train"))
        folded = tuple(p for p in map(fold, prompts) if p)
        queries = [q for q in collection.queries if q.id in ids]
        return cls(
            frozenset(ids),
            [q.text for q in queries if q.id in judged.get("dev", ())],
            frozenset(_stripped(folded, q.text) for q in queries),
            folded,
        )

    def holds(self, text: str) -> bool:
        """Whether the text is one of them."""
        return _stripped(self.prompts, text) in self.texts


def _stripped(prompts: Iterable[str], text: str) -> str:
    """The folded text without the longest of the folded prompts that it begins with."""
    text = fold(text)
    fitting = [prompt for prompt in prompts if text.startswith(prompt)]
    return text[max(map(len, fitting), default=0) :].strip()
