"""Which texts stage 2 learns the teacher's vectors of, from which source, and how often.

No text of a dev or test query is ever among them, in whatever case or white space. Not for tokens
or vectors.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

import numpy as np

from scalingnote_jax.config import DistillConfig
from scalingnote_jax.data.augment.held_out import HeldOut
from scalingnote_jax.data.augment.query_log import by_frequency, read_log
from scalingnote_jax.data.augment.title_names import TitleNames, title_names
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.data.order import Draw, keyed
from scalingnote_jax.data.overlaps import seen_entities
from scalingnote_jax.errors import bad_input
from scalingnote_jax.progress import say

_ENOUGH = 32  # dev queries to watch a student by
_MOST_NAMED = 200_000  # documents whose names training queries are given
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+")


@dataclass(frozen=True)
class QueryTexts:
    """The texts of stage 2.

    Attributes:
        learned: each once, in a fixed order.
        owners: int32 [len(learned)], the place in `DistillConfig.queries` of the source of each;
            of a text of several sources, the first.
        counts: int64 [len(learned)], how often each comes in proportion to others of its source;
            None: each source gives each text as often.
        left_out: those that `max_queries` leaves out, in the same order.
        dev: of the dev queries, of unseen entities where there are enough of those.
    """

    learned: list[str]
    owners: np.ndarray
    left_out: list[str]
    dev: list[str]
    counts: np.ndarray | None = None

    def said(self, sources: Sequence[str]) -> str:
        """How many texts there are, and of which sources; a log is behind the last."""
        found = np.bincount(self.owners, minlength=len(sources))
        names = [*sources, "of the log"]
        parts = ", ".join(f"{n} {name}" for name, n in zip(names, found, strict=False))
        return f"{len(self.learned)} query texts ({parts})"

    def probe(self, count: int, seed: int) -> list[str]:
        """At most `count` texts that are not learned: of dev queries, else such as were left out;
        drawn by the seed.
        """
        texts = self.dev or self.left_out
        order = np.argsort(keyed(seed, Draw.PROBE, np.arange(len(texts))), kind="stable")
        return [texts[i] for i in np.sort(order[:count])]


def query_texts(
    cfg: DistillConfig, collection: Collection, seed: int, prompts: Iterable[str] = ()
) -> QueryTexts:
    """The texts of the config's sources, in the order of the config.

    "train": queries judged in the train split; "unlabelled": queries that no split judges;
    "titles": titles of documents; "sentences": the first `sentences_per_document` sentences of each
    document, one by one; "titled": each of those behind the document's name; "swapped": training
    queries about the names of other documents (`title_names.py`). These four stand in for queries
    that a log would have. "noised": each text of the others once more, disturbed.

    Args:
        prompts: that stand in front of the queries of a mixture's collections. A held-out text is
            held out with, without and behind each of them.
    """
    judged = {split: set(collection.qrels(split)) for split in collection.splits}
    held_out = HeldOut.of(collection, prompts)
    texts: dict[str, int] = {}
    for number, source in enumerate(cfg.queries):
        if source != "noised":
            found = _texts_of(source, collection, judged, held_out.ids, cfg, seed)
            texts |= {t: number for t in found if t not in texts}
    log = read_log(cfg.query_files)
    texts |= {t: len(cfg.queries) for t in log if t not in texts}
    _tell(log, texts, len(cfg.queries), held_out)
    if "noised" in cfg.queries:
        number = cfg.queries.index("noised")
        texts |= {t: number for t in _noised(texts, cfg, seed) if t not in texts}
    kept = [t for t in texts if t.strip() and not held_out.holds(t)]
    if not kept:
        raise bad_input(
            "--distill.queries", f"{cfg.queries} give no text", "query texts", "add 'sentences'"
        )
    chosen = np.arange(len(kept))
    if cfg.max_queries and cfg.max_queries < len(kept):
        rng = np.random.default_rng([seed, 2])
        chosen = np.sort(rng.choice(len(kept), cfg.max_queries, replace=False))
    learned, taken = [kept[i] for i in chosen], set(chosen.tolist())
    return QueryTexts(
        learned,
        np.array([texts[t] for t in learned], np.int32),
        [t for i, t in enumerate(kept) if i not in taken],
        _watched(collection),
        np.array([log.get(t, 1) for t in learned], np.int64) if log else None,
    )


def _tell(log: dict[str, int], texts: dict[str, int], number: int, held_out: HeldOut) -> None:
    if not log:
        return
    held = {t for t in log if held_out.holds(t)}
    new = [t for t in log if texts[t] == number and t not in held]
    say(
        f"distill: a log of {sum(log.values())} queries, {len(log)} texts: {len(new)} that no "
        f"other source has, {len(held)} of held-out queries left out"
    )


def _watched(collection: Collection) -> list[str]:
    """The dev queries; of entities that training has not seen only, where there are enough: it is
    there that a student falls behind first.
    """
    if "dev" not in collection.splits:
        return []
    seen = seen_entities(collection, "dev")
    unseen = {query_id for query_id, known in seen.items() if not known}
    chosen = unseen if len(unseen) >= _ENOUGH else set(seen)
    return [q.text for q in collection.queries if q.id in chosen]


def epoch_rows(
    owners: np.ndarray, cfg: DistillConfig, seed: int, counts: np.ndarray | None = None
) -> Callable[[int], np.ndarray] | None:
    """Epoch → int64 [len(owners)], the texts that it consists of, so that each source has its share
    of `query_weights`; None without weights: each text once.

    A source with more texts than its share gives another part of them each epoch; one with fewer
    gives each of them as often as all of it fits, and of the rest a part.

    Raises:
        UserError: a weight above 0 for a source that has no text of its own.
    """
    if not cfg.query_weights and counts is None:
        return None
    names = (*cfg.queries, *(("query_files",) if cfg.query_files else ()))
    sources = [np.flatnonzero(owners == i) for i in range(len(names))]
    weights = cfg.query_weights or [len(rows) for rows in sources]
    for source, weight, rows in zip(names, weights, sources, strict=True):
        if weight > 0 and not len(rows):
            given = f"{weight:g} for {source!r}, which gives no text that no other has"
            raise bad_input("--distill.query_weights", given, "0", "change it, or the sources")
    shares = np.cumsum(weights) / np.sum(weights)
    sizes = np.diff(np.rint(shares * len(owners)).astype(int), prepend=0)

    def rows_of(epoch: int) -> np.ndarray:
        chosen = []
        for source, rows, size in zip(names, sources, sizes, strict=True):
            if size and counts is not None and source == "query_files":
                chosen.append(rows[by_frequency(counts[rows], int(size), seed, epoch)])
            elif size:
                times, rest = divmod(int(size), len(rows))
                order = np.argsort(keyed(seed, epoch, Draw.MIXTURE, rows), kind="stable")
                chosen += [np.tile(rows, times), np.sort(rows[order[:rest]])]
        return np.concatenate(chosen)

    return rows_of


def noise_seed(seed: int) -> int:
    """The seed of the noise in training: a number of 64 bits that no evaluation is given as its
    own.
    """
    return int(keyed(seed, Draw.NOISE)) | 1 << 63


def _noised(texts: Iterable[str], cfg: DistillConfig, seed: int) -> Iterator[str]:
    from scalingnote_jax.data.augment.perturb import perturb

    own = noise_seed(seed)
    for text in list(texts):
        kind = random.Random(f"{own} {text}").choice(cfg.noise)
        yield perturb(kind, text, cfg.noise_strength, own, text)


def _texts_of(
    source: str,
    collection: Collection,
    judged: dict[str, set[str]],
    held_out: Set[str],
    cfg: DistillConfig,
    seed: int,
) -> Iterator[str]:
    train = judged.get("train", set())
    if source == "train":
        yield from (q.text for q in collection.queries if q.id in train)
    elif source == "unlabelled":
        yield from (
            q.text for q in collection.queries if q.id not in train and q.id not in held_out
        )
    elif source == "titles":
        yield from (d.title for d in collection.documents)
    elif source == "swapped":
        yield from _names(collection).swapped(cfg.swaps_per_query, seed)
    else:
        names = _names(collection) if source == "titled" else None
        for document in collection.documents:
            name = names.name(document.title) or document.title if names else ""
            for sentence in _sentences(document.text, cfg.sentences_per_document):
                yield f"{name} {sentence}" if name else sentence


def _names(collection: Collection) -> TitleNames:
    """Of all documents, or of evenly spaced ones of a larger corpus: they are held in memory."""
    count = len(collection.documents)
    rows = np.linspace(0, count - 1, min(count, _MOST_NAMED)).astype(np.int64)
    return title_names(collection, collection.documents.take(rows.tolist()))


def _sentences(text: str, count: int) -> list[str]:
    return _SENTENCE.split(text.strip(), maxsplit=count)[:count]
