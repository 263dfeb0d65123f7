"""From one Python file to pairs of (summary, rest of the docstring).

Parsed with `ast`: nothing is imported or run. Not for which files are read, or for what happens to
pairs that repeat: see `pydocs.py`.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

SUMMARY_WORDS = (3, 40)
BODY_MIN_WORDS = 10
MIN_ASCII = 0.9

_TRIPLE_QUOTED = re.compile(rb"(\"\"\"|''')(.*?)\1", re.DOTALL)
_TOP_LEVEL = re.compile(rb"^(?:@|def |class |async def )", re.MULTILINE)
_GENERATED = re.compile(rb"^#.*(auto-?generated|automatically generated|do not edit)", re.M | re.I)
_ROLE = re.compile(r":[\w:+-]+:`~?([^`<]+?)(?:\s*<[^`>]*>)?`")  # :func:`~package.name`
_SENTENCE_END = re.compile(
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\betc)(?<!\bcf)[.!?]\s+(?=[A-Z`'\"(\[])"
)
# `f(x) -> y`, `x (int): …`
_SIGNATURE = re.compile(r"[\w.]+\(.*\)(\s*->.*)?|[\w*]+\s*\(.*\)\s*:.*")
_RULE = re.compile(r"[^\w\s]{3,}")  # a line of ===== under a heading
_HEADING = re.compile(
    "args|arguments|attributes|examples?|notes?|parameters|returns|usage", re.IGNORECASE
)

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Pair:
    """A docstring cut in two. `name` is `module` or `module:Class.method`."""

    name: str
    summary: str
    body: str


class NotParsed(Exception):
    """The file is not Python that this interpreter reads."""


def pairs_of(source: bytes, module: str) -> Iterator[Pair]:
    """The usable docstrings of a module, its public classes, functions and methods, in order.

    Functions inside functions and names with a leading underscore are left out: nobody can look
    them up. So is a file that says that it is generated: it repeats one that people write.

    Raises:
        NotParsed: the source is not valid.
    """
    if _GENERATED.search(source, 0, 2000):
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            trees = _trees(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NotParsed(module) from error
    for has_module_docstring, tree in trees:
        named: Iterator[tuple[str, ast.Module | Definition]] = iter(())
        if has_module_docstring:
            named = iter([(module, tree)])
        definitions = ((f"{module}:{path}", node) for path, node in _definitions(tree.body, ""))
        for name, node in itertools.chain(named, definitions):
            docstring = ast.get_docstring(node, clean=False)
            pair = split_docstring(docstring) if docstring else None
            if pair:
                yield Pair(name, *pair)


def split_docstring(docstring: str) -> tuple[str, str] | None:
    """(summary, body), or None where one of them is no use as a query or as a document.

    The summary is the first sentence of the first paragraph, without markup and full stop; the
    body is all that follows it.
    """
    first, _, rest = inspect.cleandoc(docstring).partition("\n\n")
    lines = [line.strip() for line in first.splitlines()]
    paragraph = " ".join(line for line in lines if line and not _RULE.fullmatch(line))
    end = _SENTENCE_END.search(paragraph)
    if end:
        summary, rest = paragraph[: end.start()], f"{paragraph[end.end() :]}\n\n{rest}"
    else:
        summary = paragraph
    summary = " ".join(_ROLE.sub(r"\1", summary).replace("`", "").split()).rstrip(" .:;,")
    body = re.sub(r"\n{3,}", "\n\n", rest).strip()
    return (summary, body) if _usable(summary, body) else None


def _usable(summary: str, body: str) -> bool:
    least, most = SUMMARY_WORDS
    words = summary.split()
    return (
        least <= len(words) <= most
        and len(body.split()) >= BODY_MIN_WORDS
        and summary[0].isalnum()
        and not _HEADING.fullmatch(words[0].rstrip(":"))
        and not _SIGNATURE.fullmatch(summary)
        and all(sum(map(str.isascii, text)) >= MIN_ASCII * len(text) for text in (summary, body))
    )


def _trees(source: bytes) -> list[tuple[bool, ast.Module]]:
    """The syntax trees of the pieces that may hold a usable docstring; True marks the file's head.

    Parsing is what takes the time, and most code is in pieces without such a docstring.
    """
    pieces = _pieces(source)
    try:
        return [
            (i == 0, ast.parse(piece)) for i, piece in enumerate(pieces) if _worth_parsing(piece)
        ]
    except SyntaxError:  # a cut in the wrong place, or an encoding that only the head declares
        return [(True, ast.parse(source))]


def _pieces(source: bytes) -> list[bytes]:
    """The file, cut before each definition at the left margin."""
    cuts = [0, *(match.start() for match in _TOP_LEVEL.finditer(source)), len(source)]
    pieces = [source[a:b] for a, b in itertools.pairwise(cuts)]
    # An odd count: there was a "definition" inside a long string, and the cut went through it.
    closed = all(piece.count(q) % 2 == 0 for piece in pieces for q in (b'"""', b"'''"))
    return pieces if closed else [source]


def _worth_parsing(piece: bytes) -> bool:
    found = _TRIPLE_QUOTED.finditer(piece)
    return any(split_docstring(match[2].decode(errors="replace")) for match in found)


def _definitions(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, Definition]]:
    for node in body:
        if isinstance(node, Definition):
            if node.name.startswith("_"):
                continue
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from _definitions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If | ast.Try | ast.With):  # definitions under a condition
            for block in ("body", "orelse", "finalbody"):
                yield from _definitions(getattr(node, block, []), prefix)
            for handler in getattr(node, "handlers", []):
                yield from _definitions(handler.body, prefix)
