"""What is served at a time: the towers, the index and the texts of one workdir, and how a batch of
jobs is answered with them. It never changes; another workdir is another one of these.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scalingnote_jax.config.values import read_workdir_config
from scalingnote_jax.errors import UserError
from scalingnote_jax.retrieval.searcher import Hit, Searcher
from scalingnote_jax.serve.asked import EmbedAsked, SearchAsked, Side
from scalingnote_jax.serve.meters import AnswerPart, Meters
from scalingnote_jax.serve.refused import Refused, wrong
from scalingnote_jax.serve.served_tower import ServedTower, Tokens
from scalingnote_jax.vectors.encoder import unit_rows
from scalingnote_jax.vectors.store import VectorStore

_PROMPTS: dict[Side, str] = {"query": "query_prompts", "document": "doc_prompts"}

Saw = Callable[["Live", list[str], np.ndarray, list[float]], None]


@dataclass(frozen=True)
class TextJob:
    """One text or vector of a request.

    Attributes:
        live: what answers it, whatever is served by then.
        side: whose tower.
        tokens: of a text.
        vector: [D] instead of a text.
        embed: what is to be done with it …
        search: … one of the two.
        text: of a query, for the words in it.
    """

    live: Live
    side: Side
    tokens: Tokens | None = None
    vector: np.ndarray | None = None
    embed: EmbedAsked | None = None
    search: SearchAsked | None = None
    text: str = ""

    @property
    def cost(self) -> int:
        """Tokens in a batch; a vector counts as one."""
        return self.live.towers[self.side].cost(self.tokens) if self.tokens else 1


@dataclass(frozen=True)
class Opening:
    """What of a workdir is opened.

    Attributes:
        student, int8: as for `Searcher.open`.
        documents: the document tower, too.
        hybrid: BM25, too.
        batch_tokens: as for `ServedTower`.
    """

    student: str | None = None
    documents: bool = False
    hybrid: bool = False
    int8: bool = False
    batch_tokens: int = 0


class Live:
    """One workdir, opened.

    Attributes:
        name: of its config; the model's.
        towers: by side; "document" is there where it was asked for.
        searcher: index, ids and texts.
        has_words: whether it answers in the modes that need BM25.
    """

    def __init__(
        self, name: str, towers: dict[Side, ServedTower], searcher: Searcher, has_words: bool
    ):
        self.name, self.towers, self.searcher = name, towers, searcher
        self.has_words = has_words

    @classmethod
    def open(cls, workdir: Path, opening: Opening) -> Live:
        """
        Raises:
            UserError: as `Searcher.open`.
        """
        searcher = Searcher.open(workdir, int8=opening.int8, student=opening.student)
        encoders = {"query": searcher.model.query_encoder}
        if opening.documents:
            encoders["document"] = searcher.model.doc_encoder
        if opening.hybrid:
            searcher.hybrid  # noqa: B018  (made or read now, not by the first query)
        towers: Any = {s: ServedTower(e, opening.batch_tokens) for s, e in encoders.items()}
        return cls(read_workdir_config(workdir).name, towers, searcher, opening.hybrid)

    def warm(self) -> None:
        """Compiles all that a request can need, and reads what the first one would wait for."""
        for tower in self.towers.values():
            tower.warm()
        vector = np.eye(1, self.towers["query"].dim, dtype=np.float32)
        for k in (1, min(10, self.size)):
            self.searcher.hits(self.searcher.nearest(np.repeat(vector, k, 0), k))

    @cached_property
    def vectors(self) -> np.ndarray:
        """[n, D] of the documents, memory-mapped where that can be."""
        store = self.searcher.store
        assert isinstance(store, VectorStore), "what is live was opened from a workdir"
        return store.vectors()

    @property
    def size(self) -> int:
        """Documents."""
        return len(self.searcher.index)

    def side(self, model: str | None, side: Side | None) -> Side:
        """Whose tower is asked for: by the model's name, or by `input_type`.

        Raises:
            Refused: an unknown model (404), two sides, or none where there are two towers.
        """
        named: dict[str, Side | None] = {self.name: None}
        named |= {f"{self.name}-{side}": side for side in self.towers}
        if model is not None and model not in named:
            expected = f"one of {', '.join(sorted(named))}"
            raise wrong("model", repr(model[:60]), expected, "name one", status=404)
        by_name = named[model] if model else None
        if side and by_name and side != by_name:
            raise wrong("input_type", repr(side), f"{by_name!r}, as the model says", "drop one")
        chosen = side or by_name or ("query" if len(self.towers) == 1 else None)
        if chosen is None:
            fix = "a text has one vector as a query and another as a document"
            raise wrong("input_type", "not there", " or ".join(map(repr, self.towers)), fix)
        if chosen not in self.towers:
            fix = "start the server with --documents"
            raise wrong("input_type", repr(chosen), "'query': no other tower is loaded", fix)
        return chosen

    def embed_jobs(self, asked: EmbedAsked, long: bool) -> list[TextJob]:
        """A job for each text; `long` as for `ServedTower.tokens`.

        Raises:
            Refused: what this workdir has not.
        """
        side = self.side(asked.model, asked.side)
        tower = self.towers[side]
        if asked.dimensions is not None and asked.dimensions > tower.dim:
            expected = f"1 to {tower.dim}, the numbers of a vector"
            raise wrong("dimensions", str(asked.dimensions), expected, "ask for fewer")
        rows = self._tokens(side, asked.texts, asked.collection, long)
        if not asked.truncate and any(row.cut for row in rows):
            given, expected = "a text that is too long", f"at most {tower.max_tokens} tokens"
            raise wrong("inputs", given, expected, "shorten it, or let truncate be true", 413)
        return [TextJob(self, side, row, embed=asked) for row in rows]

    def search_jobs(self, asked: SearchAsked, long: bool) -> list[TextJob]:
        """A job for each query; `long` as for `ServedTower.tokens`.

        Raises:
            Refused: what this workdir has not.
        """
        if self.side(asked.model, "query") and asked.k > self.size:
            raise wrong("k", str(asked.k), f"1 to {self.size} documents", "ask for fewer")
        if asked.mode != "dense" and not self.has_words:
            fix = "start the server with --hybrid"
            raise wrong("mode", repr(asked.mode), "'dense': there is no index of words", fix)
        if asked.vectors is not None:
            if asked.mode != "dense":
                fix = "send the query's text"
                raise wrong("mode", repr(asked.mode), "'dense', for a vector has no words", fix)
            given, dim = asked.vectors.shape[1], self.towers["query"].dim
            if given != dim:
                fix = "use this server's query vectors"
                raise wrong("vector", f"{given} numbers", f"{dim}, as the tower gives", fix)
            return [TextJob(self, "query", vector=v, search=asked) for v in asked.vectors]
        texts = asked.texts or []
        rows = self._tokens("query", texts, asked.collection, long)
        pairs = zip(rows, texts, strict=True)
        return [TextJob(self, "query", row, search=asked, text=text) for row, text in pairs]

    def _tokens(
        self, side: Side, texts: list[str], collection: str | None, long: bool
    ) -> list[Tokens]:
        try:
            prompt = self.searcher.model.prompt(_PROMPTS[side], collection)
        except UserError as e:
            raise Refused(422, str(e), "collection") from None
        return self.towers[side].tokens(texts, prompt, long)


def run_jobs(jobs: Sequence[TextJob], meters: Meters, watch: Saw) -> list[Any]:
    """An answer for each job: a vector [dimensions] float32, or a list of hits.

    Args:
        watch: is told of the queries that were answered.
    """
    raw = _raw_vectors(jobs, meters)
    answers: list[Any] = [None] * len(jobs)
    by_search: defaultdict[Any, list[int]] = defaultdict(list)
    for i, job in enumerate(jobs):
        if job.embed is not None:
            answers[i] = _cut(raw[i], job.embed)
        elif job.search is not None:
            kind = job.search.k, job.search.mode, job.search.with_texts
            by_search[job.live, *kind].append(i)
    for (live, k, mode, with_texts), places in by_search.items():
        vectors = unit_rows(np.stack([raw[i] for i in places]))
        with meters.time(AnswerPart.INDEX):
            found = live.searcher.ranked(vectors, [jobs[i].text for i in places], k, mode)
        if mode == "dense":
            best = [one[0][1] for one in found if one]
            watch(live, [jobs[i].text for i in places], vectors, best)
        hits: list[list[Hit]] = [[Hit(i, s, "", "") for i, s in one] for one in found]
        if with_texts:
            with meters.time(AnswerPart.TEXTS):
                hits = live.searcher.hits(found)
        for place, own in zip(places, hits, strict=True):
            answers[place] = own
    return answers


def _raw_vectors(jobs: Sequence[TextJob], meters: Meters) -> list[np.ndarray]:
    """Of each job, before the L2 norm."""
    vectors: list[Any] = [job.vector for job in jobs]
    by_tower: defaultdict[tuple[Live, Side], list[int]] = defaultdict(list)
    for i, job in enumerate(jobs):
        if job.tokens is not None:
            by_tower[job.live, job.side].append(i)
    for (live, side), places in by_tower.items():
        rows = [tokens for i in places if (tokens := jobs[i].tokens)]
        with meters.time(AnswerPart.TOWER):
            raw = live.towers[side].vectors(rows)
        for place, vector in zip(places, raw, strict=True):
            vectors[place] = vector
    return vectors


def _cut(raw: np.ndarray, asked: EmbedAsked) -> np.ndarray:
    """The first components; of length 1, or as long as the tower made them."""
    kept = raw[: asked.dimensions]
    return unit_rows(kept[None])[0] if asked.normalize else kept
