"""Stage 2: the small query tower learns the teacher's query vectors (paper, section 3.2:
query-based knowledge distillation).

The teacher encodes each query text once; its vectors are cached with a manifest of what made them.
The student has its own tokenizer. No document tower, document vector or label is loaded here, so
the index cannot change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from jax.sharding import Mesh

from scalingnote_jax import mesh as mesh_lib
from scalingnote_jax.config import Config, DistillConfig
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.data.pipeline import TextSampler
from scalingnote_jax.data.tokens import TokenTable
from scalingnote_jax.errors import bad_input
from scalingnote_jax.fingerprint import content_hash
from scalingnote_jax.losses.matryoshka import check_sizes
from scalingnote_jax.models.initial import student_config
from scalingnote_jax.models.towers import tower_def
from scalingnote_jax.progress import say
from scalingnote_jax.retrieval.encode import stored_vectors, weights_hash
from scalingnote_jax.retrieval.encoder import load_encoder
from scalingnote_jax.retrieval.store import VectorStore
from scalingnote_jax.tokenisation import contract, token_table, tower_tokenizer
from scalingnote_jax.train.initial import student_start
from scalingnote_jax.train.loop import Stage, fit
from scalingnote_jax.train.prepare import Prepared, check_batch, make_schedule
from scalingnote_jax.train.state import TrainState, flatten
from scalingnote_jax.train.step import distill_step
from scalingnote_jax.workdir import Workdir

_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+")


def distill_texts(cfg: DistillConfig, collection: Collection, seed: int) -> list[str]:
    """The query texts of stage 2, each once, in a fixed order; never a text of a dev or test query.

    "train": queries judged in the train split; "unlabelled": queries that no split judges;
    "titles": titles of documents; "sentences": the first `sentences_per_document` sentences of each
    document, one by one. The last two stand in for queries that a log would have.
    """
    if cfg.sentences_per_document < 1:
        raise bad_input(
            "--distill.sentences_per_document",
            str(cfg.sentences_per_document),
            "at least 1",
            "leave 'sentences' out of --distill.queries to have none",
        )
    judged = {split: set(collection.qrels(split)) for split in collection.splits}
    held_out = set().union(*(ids for split, ids in judged.items() if split != "train"))
    texts: dict[str, None] = {}
    for source in cfg.queries:
        train = judged.get("train", set())
        found = _texts_of(source, collection, train, held_out, cfg.sentences_per_document)
        texts |= dict.fromkeys(found)
    held_out_texts = {q.text for q in collection.queries if q.id in held_out}
    kept = [t for t in texts if t.strip() and t not in held_out_texts]
    if not kept:
        raise bad_input(
            "--distill.queries", f"{cfg.queries} give no text", "query texts", "add 'sentences'"
        )
    if cfg.max_queries and cfg.max_queries < len(kept):
        rng = np.random.default_rng([seed, 2])
        kept = [kept[i] for i in np.sort(rng.choice(len(kept), cfg.max_queries, replace=False))]
    return kept


def _texts_of(
    source: str, collection: Collection, train: set[str], held_out: set[str], sentences: int
) -> Iterator[str]:
    if source == "train":
        yield from (q.text for q in collection.queries if q.id in train)
    elif source == "unlabelled":
        yield from (
            q.text for q in collection.queries if q.id not in train and q.id not in held_out
        )
    elif source == "titles":
        yield from (d.title for d in collection.documents)
    else:
        for document in collection.documents:
            yield from _SENTENCE.split(document.text.strip(), maxsplit=sentences)[:sentences]


def teacher_vectors(config: Config, texts: list[str], workdir: Workdir, mesh: Mesh) -> VectorStore:
    """The teacher's raw query vectors of `texts`, from the cache if it was made by this teacher
    from these texts.
    """
    encoder = load_encoder(config, workdir, "teacher", "query", mesh)
    pairs, key = [("", t) for t in texts], content_hash(texts)
    return stored_vectors(
        encoder,
        workdir.embeddings("teacher", "distill"),
        "queries (teacher)",
        [str(i) for i in range(len(texts))],
        lambda: token_table(pairs, config.teacher.query, encoder.tokenizer, workdir, key),
        {"checkpoint": weights_hash(config, workdir, "teacher"), "texts": key},
        unit=False,
        shard_rows=config.encode.shard_rows,
    )


class DistillSampler:
    """Batches of stage 2: a text's tokens in the student's tokenizer beside the teacher's vector of
    it.
    """

    def __init__(self, texts: TextSampler, vectors: np.ndarray):
        self.texts, self.vectors = texts, vectors

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's rows of step `step`: tokens, mask [b, L], teacher_raw [b, D]."""
        batch = self.texts.batch(step)
        return {
            "tokens": batch["tokens"],
            "mask": batch["mask"],
            "teacher_raw": np.asarray(self.vectors[batch["rows"]]),
        }


def build(
    config: Config,
    table: TokenTable,
    vectors: np.ndarray,
    workdir: Workdir,
    mesh: Mesh,
    inputs: str,
) -> Stage:
    """Everything of stage 2 but the weights: what `--dry-run` shows and `distill` runs.

    Args:
        table: the query texts in the student's tokens.
        vectors: [len(table), D] float32, the teacher's raw vectors of the same texts.
    """
    cfg = config.distill
    check_batch("distill", cfg, mesh)
    tower = tower_def(student_config(config), "distill.student")
    if tower.dim != vectors.shape[1]:
        raise bad_input(
            "--distill.student.projection",
            f"student vectors of {tower.dim} dimensions",
            f"the teacher's {vectors.shape[1]}",
            f"set it to {vectors.shape[1]}",
        )
    check_sizes("--distill.matryoshka", cfg.matryoshka, tower.dim)
    part, parts = mesh_lib.batch_part(mesh)
    texts = TextSampler(
        table,
        tower.cfg.text.buckets,
        cfg.batch_size,
        cfg.bucket_window,
        config.seed,
        process_index=part,
        process_count=parts,
    )
    schedule = make_schedule("distill", cfg, texts.steps_per_epoch)
    shapes, axes = (flatten({"student": tree}) for tree in tower.abstract())
    prepared = Prepared("distill.student", shapes, axes, tower.freeze, cfg, schedule, mesh)
    terms = contract(tower, tower_tokenizer(tower.cfg))
    return Stage(
        name="distill",
        folder=workdir.student,
        prepared=prepared,
        step=prepared.jit(distill_step, tower=tower, cfg=cfg, seed=config.seed),
        initial=lambda: student_start(config, tower, table, vectors, workdir, prepared),
        sampler=DistillSampler(texts, vectors),
        schedule=schedule,
        meta={"inputs": inputs, "contracts": {"query": terms}},
    )


def distill(
    config: Config, collection: Collection, workdir: Workdir, mesh: Mesh, inputs: str
) -> TrainState:
    """Runs stage 2 to its end, from the newest checkpoint if there is one."""
    texts = distill_texts(config.distill, collection, config.seed)
    say(f"distill: {len(texts)} query texts")
    store = teacher_vectors(config, texts, workdir, mesh)
    student = student_config(config)
    pairs = [("", t) for t in texts]
    table = token_table(pairs, student, tower_tokenizer(student), workdir, content_hash(texts))
    return fit(build(config, table, store.vectors(), workdir, mesh, inputs))
