"""The whole method, in order: what each step reads, makes and depends on.

    data     corpus, queries, judgements → TFDS                                     data/
    train    stage 1: LLM query tower ⇄ LLM document tower, contrastive             teacher/
    encode   document tower → document vectors, computed once
    embeddings/teacher-doc/
    distill  stage 2: small tower → the teacher's query vectors, query-only         student/
    index    ScaNN over the document vectors                                        index/
    eval     student, teacher and baselines on the very same index                  eval/,
    report.html

A step runs unless it was finished from the same inputs: the hash of its part of the config and of
the outputs of the steps it reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

import scalingnote_jax
from scalingnote_jax import mesh as mesh_lib
from scalingnote_jax.config import Config
from scalingnote_jax.configfile import section_hash
from scalingnote_jax.data.dataset import Collection, build_dataset
from scalingnote_jax.data.sources import open_source
from scalingnote_jax.evaluate.cases import check as check_robustness
from scalingnote_jax.evaluate.cases import second_collection
from scalingnote_jax.evaluate.evaluate import evaluate
from scalingnote_jax.evaluate.runs import run_hashes
from scalingnote_jax.fingerprint import file_hash, tree_hash
from scalingnote_jax.progress import say
from scalingnote_jax.retrieval.build_index import build_index, needs_queries
from scalingnote_jax.retrieval.encode import side_vectors
from scalingnote_jax.retrieval.encoder import load_encoder
from scalingnote_jax.retrieval.store import VectorStore
from scalingnote_jax.train.student import distill
from scalingnote_jax.train.teacher import train
from scalingnote_jax.workdir import Workdir, clear, is_done, mark_done, output_of


class Run:
    """One config in one workdir on one mesh, and what its steps share."""

    def __init__(self, config: Config, workdir: Workdir, mesh: Mesh):
        check_robustness(config.eval)  # before minutes of training, not after them
        self.config, self.workdir, self.mesh = config, workdir, mesh
        self._collection: Collection | None = None

    @property
    def collection(self) -> Collection:
        """The built data, opened once."""
        output_of(self.workdir.data, "data")
        if self._collection is None:
            self._collection = Collection.open(self.workdir.data)
        return self._collection

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
    make: Callable[[Run, str], None]  # gets the run and the hash of its inputs
    output: Callable[[Run], str]  # content hash of what it made
    resumes: bool = False  # whether an unfinished folder is gone on with


def _data_inputs(run: Run) -> str:
    return section_hash(
        run.config.data, open_source(run.config.data).fingerprint(), scalingnote_jax.__version__
    )


def _make_data(run: Run, inputs: str) -> None:
    if mesh_lib.first_process():
        build_dataset(run.config.data, run.workdir.data)


def _train_inputs(run: Run) -> str:
    return section_hash(run.config.teacher, run.config.train, run.config.seed, run.output("data"))


def _make_teacher(run: Run, inputs: str) -> None:
    train(run.config, run.collection, run.workdir, run.mesh, inputs)


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
    return section_hash(
        config.distill, config.teacher.query, config.seed, run.output("train"), run.output("data")
    )


def _make_student(run: Run, inputs: str) -> None:
    distill(run.config, run.collection, run.workdir, run.mesh, inputs)


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
    return section_hash(
        run.config.eval,
        run_hashes(run.config.eval.runs),
        second.fingerprint() if second else "",
        *(run.output(verb) for verb in ("data", "train", "distill", "index")),
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
    "train": Step(
        lambda w: w.teacher,
        _train_inputs,
        _make_teacher,
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
        _make_student,
        lambda run: _weights(run.workdir.student),
        resumes=True,
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
    folder, inputs = step.folder(run.workdir), step.inputs(run)
    done = is_done(folder, inputs)
    mesh_lib.barrier(f"{verb} starts")
    if done:
        say(f"{verb}: done already, nothing that it is made from has changed")
        return
    if mesh_lib.first_process() and step.resumes and overwrite:
        clear(folder)  # the other steps replace their folder when they have made the new one
    mesh_lib.barrier(f"{verb} may write")
    folder.parent.mkdir(parents=True, exist_ok=True)
    step.make(run, inputs)
    mesh_lib.barrier(f"{verb} has written")
    if mesh_lib.first_process():
        mark_done(folder, inputs, step.output(run))
    mesh_lib.barrier(f"{verb} is done")


def run_all(run: Run, overwrite: bool = False) -> None:
    """All steps in order."""
    for verb in STEPS:
        run_step(run, verb, overwrite)
