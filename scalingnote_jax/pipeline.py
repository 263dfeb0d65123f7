"""The whole method, in order: what each step reads, makes and depends on.

    data     corpus, queries, judgements → TFDS                                     data/
    mine     hard negatives for the next line, by BM25 or an earlier teacher        negatives/
    train    stage 1: LLM query tower ⇄ LLM document tower, contrastive             teacher/
    encode   document tower → document vectors, computed once
    embeddings/teacher-doc/
    distill  stage 2: small tower → the teacher's query vectors, query-only         student/
    refine   stage 3, an option: it meets the frozen document vectors      student/refined/
    index    ScaNN over the document vectors                                        index/
    eval     student, teacher and baselines on the very same index                  eval/,
    report.html

A step runs unless it was finished from the same inputs: the hash of its part of the config and of
the outputs of the steps it reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

import scalingnote_jax
from scalingnote_jax.config import Config
from scalingnote_jax.config.values import section_hash
from scalingnote_jax.data.dataset import Collection, build_dataset
from scalingnote_jax.data.sources import open_source
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import bad_input
from scalingnote_jax.evaluate.cross_domain import check as check_collections
from scalingnote_jax.evaluate.cross_domain import content_hashes
from scalingnote_jax.evaluate.disturbances import check as check_robustness
from scalingnote_jax.evaluate.disturbances import second_collection
from scalingnote_jax.evaluate.evaluate import evaluate
from scalingnote_jax.evaluate.run_files import run_hashes
from scalingnote_jax.hashing import file_hash, tree_hash
from scalingnote_jax.losses.distill import needs_documents
from scalingnote_jax.progress import say
from scalingnote_jax.retrieval.build_index import build_index, needs_queries
from scalingnote_jax.retrieval.mine import FILE as NEGATIVES
from scalingnote_jax.rounds import (
    make_negatives,
    make_teacher,
    mine_inputs,
    steps_of,
    train_inputs,
)
from scalingnote_jax.systems import distills, refines, row_name
from scalingnote_jax.train.stage2 import distill
from scalingnote_jax.train.stage3 import mining_rules, refine
from scalingnote_jax.vectors.encode import side_vectors
from scalingnote_jax.vectors.encoder import load_encoder
from scalingnote_jax.vectors.store import VectorStore
from scalingnote_jax.workflow.reuse import take_over
from scalingnote_jax.workflow.workdir import Workdir, clear, is_done, mark_done, output_of


class Run:
    """One config in one workdir on one mesh, and what its steps share."""

    def __init__(self, config: Config, workdir: Workdir, mesh: Mesh, reuse: Sequence[Path] = ()):
        """`reuse`: workdirs whose finished steps may be taken over."""
        check_robustness(config.eval)  # before minutes of training, not after them
        check_collections(config)
        self.config, self.workdir, self.mesh, self.reuse = config, workdir, mesh, reuse
        self.round = len(config.mine.rounds) - 1  # of mining and training: see rounds.py
        self._collection: Collection | None = None

    @property
    def collection(self) -> Collection:
        """The built data, opened once."""
        output_of(self.workdir.data, "data")
        if self._collection is None:
            self._collection = Collection.open(self.workdir.data)
        return self._collection

    def has(self, verb: str) -> bool:
        """Whether the config has this step."""
        return STEPS[verb].wanted(self.config)

    def output(self, verb: str) -> str:
        """The content hash of a finished step."""
        return output_of(STEPS[verb].folder(self.workdir), verb)


@dataclass(frozen=True)
class Step:
    """One step: where it writes, what it is made from, how. `make` leaves everything in place; the
    marker comes after it.
    """

    folder: Callable[[Workdir], Path]
    inputs: Callable[[Run], str]
    make: Callable[[Run, str], object]  # gets the run and the hash of its inputs
    output: Callable[[Run], str]  # content hash of what it made
    resumes: bool = False  # whether an unfinished folder is gone on with
    wanted: Callable[[Config], bool] = lambda config: True  # whether a config has the step at all


def _data_inputs(run: Run) -> str:
    return section_hash(
        run.config.data, open_source(run.config.data).fingerprint(), scalingnote_jax.__version__
    )


def _make_data(run: Run, inputs: str) -> None:
    if mesh_lib.first_process():
        build_dataset(run.config.data, run.workdir.data)


def _encode_inputs(run: Run) -> str:
    return section_hash(
        run.config.teacher.doc,
        run.config.encode.shard_rows,
        run.config.encode.dim,
        run.config.encode.store_dtype,
        run.output("train"),
        run.output("data"),
    )


def _make_vectors(run: Run, inputs: str) -> None:
    side_vectors(run.config, run.collection, run.workdir, "teacher", "doc", run.mesh)


def _distill_inputs(run: Run) -> str:
    config = run.config
    documents = [run.output("encode")] if needs_documents(config.distill) else []
    made_from = [config.distill, config.teacher.query, config.seed, *documents]
    return section_hash(*made_from, run.output("train"), run.output("data"))


def _refine_inputs(run: Run) -> str:
    config = run.config
    made_from = [config.refine, mining_rules(config.mine), config.seed]
    outputs = (run.output(verb) for verb in ("data", "encode", "distill"))
    return section_hash(*made_from, *outputs)


def _index_inputs(run: Run) -> str:
    return section_hash(run.config.index, run.output("encode"))


def _make_index(run: Run, inputs: str) -> None:
    store, cfg = _store(run), run.config.index
    queries = _tuning_queries(run) if needs_queries(len(store), cfg) else None
    if mesh_lib.first_process():
        build_index(store, cfg, run.workdir.index, queries)


def _tuning_queries(run: Run) -> np.ndarray | None:
    """The teacher's unit vectors of dev queries, else of train queries; never of test queries."""
    collection = run.collection
    judged = {s: set(collection.qrels(s)) for s in ("dev", "train") if s in collection.splits}
    ids = next((found for found in judged.values() if found), set())
    texts = [q.text for q in collection.queries if q.id in ids][: run.config.index.tuning_queries]
    if not texts:
        return None
    encoder = load_encoder(run.config, run.workdir, "teacher", "query", run.mesh)
    return encoder.unit(encoder.encode(texts))


def _eval_inputs(run: Run) -> str:
    second = second_collection(run.config.eval)
    made = filter(run.has, ("data", "train", "distill", "refine", "index"))
    return section_hash(
        run.config.eval,
        run_hashes(run.config.eval.runs),
        second.fingerprint() if second else "",
        content_hashes(run.config),
        row_name(run.config, "teacher"),
        *map(run.output, made),
    )


def _make_evaluation(run: Run, inputs: str) -> None:
    evaluate(run.config, run.collection, run.workdir, run.mesh)


def _store(run: Run) -> VectorStore:
    return VectorStore.open(run.workdir.embeddings("teacher", "doc"))


STEPS: dict[str, Step] = {
    "data": Step(
        lambda w: w.data,
        _data_inputs,
        _make_data,
        lambda run: Collection.open(run.workdir.data).fingerprint,
    ),
    "mine": Step(
        lambda w: w.negatives,
        mine_inputs,
        make_negatives,
        lambda run: file_hash(run.workdir.negatives / NEGATIVES),
    ),
    "train": Step(
        lambda w: w.teacher,
        train_inputs,
        make_teacher,
        lambda run: _weights(run.workdir.teacher),
        resumes=True,
    ),
    "encode": Step(
        lambda w: w.embeddings("teacher", "doc"),
        _encode_inputs,
        _make_vectors,
        lambda run: _store(run).fingerprint,
    ),
    "distill": Step(
        lambda w: w.student,
        _distill_inputs,
        lambda run, inputs: distill(run.config, run.collection, run.workdir, run.mesh, inputs),
        lambda run: _weights(run.workdir.student),
        resumes=True,
        wanted=distills,
    ),
    "refine": Step(
        lambda w: w.refined,
        _refine_inputs,
        lambda run, inputs: refine(run.config, run.collection, run.workdir, run.mesh, inputs),
        lambda run: _weights(run.workdir.refined),
        resumes=True,
        wanted=refines,
    ),
    "index": Step(
        lambda w: w.index,
        _index_inputs,
        _make_index,
        lambda run: file_hash(run.workdir.index / "manifest.json"),
    ),
    "eval": Step(
        lambda w: w.eval,
        _eval_inputs,
        _make_evaluation,
        lambda run: file_hash(run.workdir.eval / "metrics.json"),
    ),
}


def _weights(folder: Path) -> str:
    """Content hash of the newest checkpoint's weights."""
    newest = max(
        (p for p in (folder / "checkpoints").iterdir() if p.name.isdigit()),
        key=lambda p: int(p.name),
    )
    return tree_hash(newest / "params")


def run_step(run: Run, verb: str, overwrite: bool = False) -> None:
    """Runs one step, or says that nothing it is made from has changed.

    With `overwrite`, what an earlier config left in the step's folder is removed instead of
    refused.
    """
    step = STEPS[verb]
    if not run.has(verb):
        given, fix = "a config without this step", f"set --{verb}.duration to have it"
        raise bad_input(verb, given, "one that has it", fix)
    folder, inputs = step.folder(run.workdir), step.inputs(run)
    if mesh_lib.first_process():
        take_over(folder, inputs, run.workdir, run.reuse)
    mesh_lib.barrier(f"{verb} may be there")
    done = is_done(folder, inputs)
    mesh_lib.barrier(f"{verb} starts")
    if done:
        say(f"{verb}: done already, nothing that it is made from has changed")
        return
    if mesh_lib.first_process() and step.resumes and overwrite:
        clear(folder)  # the other steps replace their folder when they have made the new one
    mesh_lib.barrier(f"{verb} may write")
    folder.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    step.make(run, inputs)
    mesh_lib.barrier(f"{verb} has written")
    if mesh_lib.first_process():
        mark_done(folder, inputs, step.output(run), time.monotonic() - started)
    mesh_lib.barrier(f"{verb} is done")


def run_verb(run: Run, verb: str, overwrite: bool = False) -> None:
    """A step, or the steps of stage 1's rounds up to it."""
    for step, at_its_round in steps_of(run, verb):
        run_step(at_its_round, step, overwrite)


def run_all(run: Run, overwrite: bool = False) -> None:
    """All steps that the config has, in order."""
    for verb in filter(run.has, STEPS):
        if verb != "mine":  # comes with the rounds of training
            run_verb(run, verb, overwrite)
