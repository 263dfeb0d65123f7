"""Single queries with their texts: a spread of examples, and the worst of the student's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from scalingnote_jax.evaluate.report.words import fixed, snippet, system_name

SHOWN = 5  # documents of a result list


class ShownDocument(NamedTuple):
    text: str
    doc_id: str
    score: str
    right: bool


class Example(NamedTuple):
    query: str
    hits: list[ShownDocument]
    first_right: list[str]  # where each system has its first right answer


class Found(NamedTuple):
    """One system's answer to a query."""

    system: str
    value: str
    hits: list[ShownDocument]


class Worst(NamedTuple):
    query: str
    metric: str
    relevant: list[str]
    found: list[Found]


def example(given: Mapping[str, Any], shipped: str = "student") -> Example:
    """What the shipped tower found, and where each other system has its first right answer."""
    relevant, results = set(given["relevant"]), dict(given["results"])
    main = shipped if shipped in results else next(iter(results), "")
    return Example(
        snippet(given["query"]),
        _hits(results.get(main, []), relevant),
        [f"{system_name(s)} {_first_right(hits, relevant)}" for s, hits in results.items()],
    )


def worst(given: Mapping[str, Any], shipped: str = "student") -> Worst:
    """A query on which the student is far behind its teacher, and what both found.

    The relevant documents are given by their texts, so that is how a right answer is known.
    """
    relevant = list(given.get("relevant") or [])
    found = [
        Found(system_name(system), _value(given, system), _hits(hits, (), relevant))
        for system, hits in (given.get("results") or {}).items()
    ]
    if not found:
        found = [Found(system_name(s), _value(given, s), []) for s in (shipped, "teacher")]
    return Worst(
        snippet(given["query"]), str(given["metric"]), list(map(snippet, relevant[:SHOWN])), found
    )


def _value(given: Mapping[str, Any], system: str) -> str:
    return f"{given['metric']} {fixed(given[system])}" if system in given else ""


def _hits(
    hits: Sequence[Sequence[Any]], ids: Collection[str], texts: Collection[str] = ()
) -> list[ShownDocument]:
    return [
        ShownDocument(snippet(text), str(doc_id), fixed(score), doc_id in ids or text in texts)
        for doc_id, text, score in hits[:SHOWN]
    ]


def _first_right(hits: Sequence[Sequence[Any]], relevant: Collection[str]) -> str:
    for rank, (doc_id, _, _) in enumerate(hits[:SHOWN], start=1):
        if doc_id in relevant:
            return f"at {rank}"
    return f"not in the first {SHOWN}"
