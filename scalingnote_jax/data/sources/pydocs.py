"""The documentation of the Python packages installed right here: real pairs without a download.

A query is the summary of a docstring, its document is the rest, and the document's title is the
qualified name (kept out of the text: the name would give the answer away). Whole modules go to
train, dev or test, so that no text of a test pair is trained on. The standard library is no
distribution and so is not read. How one file is cut: `docstrings.py`.
"""

from __future__ import annotations

import difflib
import functools
import gc
import importlib.metadata
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.sources.base import Document, Qrels, Query, fold
from scalingnote_jax.data.sources.docstrings import NotParsed, Pair, pairs_of
from scalingnote_jax.data.sources.shares import digest, split_of
from scalingnote_jax.errors import bad_input
from scalingnote_jax.hashing import content_hash
from scalingnote_jax.progress import progress, say

_RULES = 1  # raise it when the rules here or in docstrings.py change: it is part of the fingerprint
# Vendored packages are copies of others.
_LEFT_OUT = frozenset({"test", "tests", "testing", "_vendor"})
_TEST_FILE = re.compile(r"(test_.*|.*_test|conftest)\.py")


class PydocsSource:
    """Reads installed distributions once and keeps the pairs. See `Source` for the methods."""

    def __init__(self, cfg: DataConfig):
        """
        Raises:
            UserError: a name in `cfg.packages` is not installed, or the shares of the splits leave
                nothing to train on.
        """
        self._cfg = cfg
        self._distributions = _distributions(cfg.packages)

    def fingerprint(self) -> str:
        """Over names and versions of the distributions and the options; no file is read."""
        cfg = self._cfg
        versions = sorted(f"{name}=={dist.version}" for name, dist in self._distributions.items())
        options = [
            cfg.max_documents,
            cfg.test_percent,
            cfg.dev_percent,
            cfg.max_text_bytes,
            cfg.seed,
        ]
        return content_hash(["pydocs", _RULES, versions, options])

    def documents(self) -> Iterator[Document]:
        """One document for each distinct body, sorted by id (`package.module:Class.method`)."""
        yield from self._collected.documents.values()

    def queries(self) -> Iterator[Query]:
        """One query for each distinct summary, in the order of the documents."""
        yield from self._collected.queries.values()

    def qrels(self, split: str) -> Qrels:
        """Every pair has grade 1. A query belongs to the split of its first document's module."""
        cfg, found = self._cfg, self._collected
        return {
            query_id: dict.fromkeys(doc_ids, 1)
            for query_id, doc_ids in found.positives.items()
            if split_of(doc_ids[0].partition(":")[0], cfg) == split
        }

    def judged_at(self, split: str, query_id: str, doc_id: str) -> str:
        """The document's name: there is no file of judgements."""
        return f"pydocs {split} {query_id} {doc_id}"

    @functools.cached_property
    def _collected(self) -> _Collected:
        edges = list(_distinct(self._read()))
        if self._cfg.max_documents:
            edges = _sample(edges, self._cfg.max_documents, self._cfg.seed)
        if not edges:
            raise bad_input(
                "--data.packages",
                f"no usable docstrings in {', '.join(self._distributions) or 'nothing'}",
                "distributions with docstrings of more than a line",
                "name others, or leave it empty to take all that are installed",
            )
        found = _Collected()
        for query, document in edges:
            found.documents.setdefault(document.id, document)
            found.queries.setdefault(query.id, query)
            found.positives.setdefault(query.id, []).append(document.id)
        return found

    def _read(self) -> list[Pair]:
        files = _python_files(self._distributions.values())
        pairs: dict[str, Pair] = {}
        bad_files = bad_pairs = 0
        with progress("read docstrings", total=len(files), unit="files") as bar, _no_gc():
            for path, module in files:
                bar.advance(1)
                try:
                    found = list(pairs_of(path.read_bytes(), module))
                except (NotParsed, OSError):
                    bad_files += 1
                    continue
                for pair in found:
                    if _fits(pair, self._cfg.max_text_bytes):
                        # The first definition counts: a second one is a setter or an `else`.
                        pairs.setdefault(pair.name, pair)
                    else:
                        bad_pairs += 1
        say(
            f"pydocs: {len(pairs)} docstrings in {len(files)} files; left out {bad_files} files "
            f"that cannot be parsed and {bad_pairs} docstrings that are too long or not valid text"
        )
        return [pairs[name] for name in sorted(pairs)]


@dataclass
class _Collected:
    documents: dict[str, Document] = field(default_factory=dict)
    queries: dict[str, Query] = field(default_factory=dict)
    positives: dict[str, list[str]] = field(default_factory=dict)


def _distributions(names: tuple[str, ...]) -> dict[str, importlib.metadata.Distribution]:
    installed: dict[str, importlib.metadata.Distribution] = {}
    for dist in importlib.metadata.distributions():
        if dist.metadata["Name"]:  # a damaged installation has none
            installed.setdefault(_normal(dist.metadata["Name"]), dist)
    for name in names:
        if _normal(name) not in installed:
            near = difflib.get_close_matches(_normal(name), installed, n=1, cutoff=0.0)
            raise bad_input(
                "--data.packages",
                f"{name!r} is not installed",
                "installed distributions",
                f"did you mean {near[0]!r}? `pip list` shows them all" if near else "install it",
            )
    chosen = {_normal(name) for name in names} or set(installed)
    return {name: installed[name] for name in sorted(chosen)}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _python_files(
    distributions: Iterable[importlib.metadata.Distribution],
) -> list[tuple[Path, str]]:
    modules: dict[str, Path] = {}
    for dist in distributions:
        for file in dist.files or ():
            module = _module_of(file)
            if module:
                modules.setdefault(module, Path(str(dist.locate_file(file))))
    return [(path, module) for module, path in sorted(modules.items()) if path.is_file()]


def _module_of(file: PurePath) -> str | None:
    """The dotted name of an importable module; None for scripts, tests and vendored copies."""
    if (
        file.suffix != ".py"
        or _LEFT_OUT.intersection(file.parts)
        or _TEST_FILE.fullmatch(file.name)
    ):
        return None
    parts = file.with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts) if parts and all(map(str.isidentifier, parts)) else None


def _fits(pair: Pair, max_bytes: int) -> bool:
    try:
        return max(len(pair.summary.encode()), len(pair.body.encode())) <= max_bytes
    except UnicodeEncodeError:  # a lone surrogate
        return False


def _distinct(pairs: list[Pair]) -> Iterator[tuple[Query, Document]]:
    """One document for each body, one query for each summary, and each link between them once."""
    documents: dict[str, Document] = {}
    queries: dict[str, Query] = {}
    seen: set[tuple[str, str]] = set()
    for pair in pairs:
        title = pair.name.replace(":", ".")
        document = documents.setdefault(fold(pair.body), Document(pair.name, title, pair.body))
        # The prefix: some evaluators drop a hit that has the query's own id.
        query = queries.setdefault(fold(pair.summary), Query(f"query:{pair.name}", pair.summary))
        if (query.id, document.id) not in seen:
            seen.add((query.id, document.id))
            yield query, document


def _sample(
    edges: list[tuple[Query, Document]], count: int, seed: int
) -> list[tuple[Query, Document]]:
    """`count` pairs, chosen by a hash of each, so that one pair more hardly changes the choice."""

    def rank(i: int) -> bytes:
        return digest(f"{seed} {edges[i][0].id} {edges[i][1].id}")

    kept = sorted(sorted(range(len(edges)), key=rank)[:count])
    return [edges[i] for i in kept]


@contextmanager
def _no_gc() -> Iterator[None]:
    """Syntax trees are many small objects and no cycles: the collector would only walk them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
