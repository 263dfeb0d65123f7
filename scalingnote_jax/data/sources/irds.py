"""Any dataset of the `ir_datasets` library, which downloads it where its licence allows that.

`--data.path` names it in one of two ways:

    beir/scifact              the splits beir/scifact/train, …/dev (or validation) and …/test, as
                              far as they are there; if none is and the dataset itself has
                              judgements, these are the test split
    train=ID,dev=ID,test=ID   an id for each split, one or more of them: what belongs together but
                              is not called so, such as
                              train=msmarco-passage/train/judged,test=msmarco-passage/trec-dl-2019

A document's text is its field `text`, beside its `title`; where there is none, it is what the
library takes for the default text, title included. Users cannot correct these datasets, so
what collections of evaluation campaigns are known for is put right and said: grades below 0 (spam)
count as 0, of two grades for one pair the higher one counts, and judgements of documents that are
not in the corpus, then queries without a relevant document, are left out.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.sources.base import SPLIT_NAMES, SPLITS, Document, Qrels, Query
from scalingnote_jax.data.sources.records import Ids, checked_text, grade_of, query_text
from scalingnote_jax.errors import UserError, bad_input
from scalingnote_jax.hashing import content_hash, file_hash
from scalingnote_jax.progress import say


class IrdsSource:
    """Reads from the library. See `Source` for the methods."""

    def __init__(self, cfg: DataConfig):
        """
        Raises:
            UserError: the library is not installed, an id is not known, has no judgements, or has
                other documents than the rest.
        """
        try:
            import ir_datasets
        except ModuleNotFoundError:
            fix = "pip install 'scalingnote_jax[ir_datasets]'"
            given = "'ir_datasets', but the library is not installed"
            raise bad_input("--data.source", given, "the library ir-datasets", fix) from None
        self._library, self._max_bytes = ir_datasets, cfg.max_text_bytes
        self._more = cfg.more_splits
        self._ids = self._named(cfg.path) if "=" in cfg.path else self._family(cfg.path)
        self._splits = {split: ir_datasets.load(name) for split, name in self._ids.items()}
        self._first = next(iter(self._splits))  # whose documents are read
        for split, dataset in self._splits.items():
            if dataset.docs_handler() != self._splits[self._first].docs_handler():
                given = f"{self._ids[split]} has other documents than {self._ids[self._first]}"
                fix = "choose ids of one collection"
                raise bad_input("--data.path", given, "splits of one corpus", fix)

    def fingerprint(self) -> str:
        """Over the file of documents where the library names one, else over the documents one by
        one, and over queries and judgements. Downloads what is not there yet.
        """
        return content_hash(
            [
                ["ir_datasets", self._library.__version__, self._ids, self._max_bytes],
                self._hash_of_documents(),
                _digest(vars(query) for query in self.queries()),
                [_digest(self._judgements(split)) for split in self._ids],
            ]
        )

    def documents(self) -> Iterator[Document]:
        """The documents in the library's order."""
        ids = Ids("doc_id")
        for number, doc in enumerate(self._read(self._first, "docs_iter"), 1):
            where = f"{self._ids[self._first]} docs:{number}"
            text = doc.text if hasattr(doc, "text") else doc.default_text()
            title = getattr(doc, "title", "") if hasattr(doc, "text") else ""
            doc_id = ids.check(where, doc.doc_id)
            title = checked_text(where, "title", title, self._max_bytes)
            yield Document(doc_id, title, checked_text(where, "text", text, self._max_bytes))

    def queries(self) -> Iterator[Query]:
        """The queries of all splits; splits may share queries."""
        texts: dict[str, str] = {}
        for split, name in self._ids.items():
            ids = Ids("query_id")
            for number, query in enumerate(self._read(split, "queries_iter"), 1):
                where = f"{name} queries:{number}"
                query_id = ids.check(where, query.query_id)
                text = checked_text(where, "text", query.default_text(), self._max_bytes)
                if query_id not in texts:
                    texts[query_id] = text
                    yield Query(query_id, query_text(where, query_id, text))
                elif texts[query_id] != text:
                    given = f"the query_id {query_id!r} again, with another text"
                    fix = "choose ids of one collection"
                    raise bad_input(where, given, "one text for each query", fix)

    def qrels(self, split: str) -> Qrels:
        """The judgements of a split, put right as the module says."""
        if split not in self._ids:
            return {}
        found: Qrels = {}
        below, strangers = 0, 0
        for query_id, doc_id, grade in self._judgements(split):
            if doc_id in self._not_in_corpus:
                strangers += 1
                continue
            below += grade < 0
            grades = found.setdefault(query_id, {})
            grades[doc_id] = max(grade, grades.get(doc_id, 0))
        kept = {query_id: grades for query_id, grades in found.items() if any(grades.values())}
        for count, what in (
            (below, "grades below 0 count as 0"),
            (strangers, "judgements of documents that are not in the corpus left out"),
            (len(found) - len(kept), "queries without a relevant document left out"),
        ):
            if count:
                say(f"{self._ids[split]}: {count} {what}")
        return kept

    def judged_at(self, split: str, query_id: str, doc_id: str) -> str:
        """The split's id and the pair: there is no file that a person reads."""
        return f"{self._ids[split]} qrels {query_id} {doc_id}"

    @functools.cached_property
    def _not_in_corpus(self) -> set[str]:
        left = {doc_id for split in self._ids for _, doc_id, _ in self._judgements(split)}
        left.difference_update(doc.doc_id for doc in self._read(self._first, "docs_iter"))
        return left

    def _judgements(self, split: str) -> Iterator[tuple[str, str, int]]:
        for number, judged in enumerate(self._read(split, "qrels_iter"), 1):
            grade = grade_of(f"{self._ids[split]} qrels:{number}", judged.relevance)
            yield judged.query_id, judged.doc_id, grade

    def _hash_of_documents(self) -> str:
        dataset = self._splits[self._first]
        if hasattr(dataset, "docs_path"):
            with _in_one_line(self._ids[self._first]):
                path = Path(dataset.docs_path())
            if path.is_file():
                return file_hash(path)
        return _digest(vars(document) for document in self.documents())

    def _read(self, split: str, what: str) -> Iterator[Any]:
        with _in_one_line(self._ids[split]):
            yield from getattr(self._splits[split], what)()

    def _family(self, path: str) -> dict[str, str]:
        """Splits by their names below `path`."""
        found: dict[str, str] = {}
        for split, names in SPLIT_NAMES.items():
            for name in names:
                if split not in found and self._judged(f"{path}/{name}"):
                    found[split] = f"{path}/{name}"
        for name in self._more:
            if not self._judged(f"{path}/{name}"):
                raise self._unknown(f"{path}/{name}")
            found[name] = f"{path}/{name}"
        if not found and self._judged(path):
            found = {"test": path}
        if not found:
            raise self._unknown(path)
        return found

    def _named(self, path: str) -> dict[str, str]:
        """Splits from `split=ID,…`."""
        parts = [part.partition("=") for part in path.split(",")]
        found = {split: name for split, _, name in parts}
        if len(found) < len(parts) or not set(found) <= {*SPLITS, *self._more}:
            expected = "train=ID,dev=ID,test=ID, each at most once, commas between"
            raise bad_input("--data.path", f"{path!r}", expected, "write it like that")
        for name in found.values():
            if not self._judged(name):
                raise self._unknown(name)
        return found

    def _judged(self, name: str) -> bool:
        try:
            dataset = self._library.load(name)
        except KeyError:
            return False
        return dataset.has_docs() and dataset.has_queries() and dataset.has_qrels()

    def _unknown(self, name: str) -> UserError:
        near = ", ".join(difflib.get_close_matches(name, self._library.registry, n=3, cutoff=0.3))
        expected = "an id with documents, queries and judgements, or with splits that have them"
        fix = f"did you mean one of: {near}?" if near else "see https://ir-datasets.com"
        return bad_input("--data.path", f"{name!r} is no such id", expected, fix)


@contextmanager
def _in_one_line(name: str) -> Iterator[None]:
    """Turns the library's failures, which it leaves to whatever it reads with, into one line."""
    failures = (OSError, EOFError, RuntimeError, ValueError, ImportError, zipfile.BadZipFile)
    try:
        yield
    except failures as error:
        raise bad_input(
            f"ir_datasets {name}",
            f"cannot be read ({type(error).__name__}: {str(error)[:300]})",
            "a dataset that is there or can be downloaded",
            "check the network, or see https://ir-datasets.com for how to get it",
        ) from None


def _digest(records: Iterable[Any]) -> str:
    """SHA-256 (hex) over records, one by one."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(record).encode())
    return digest.hexdigest()
