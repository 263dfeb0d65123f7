"""The whole method, in order: each step with what it reads of the config and of the steps before.

Stage 1 may take several rounds of mining and training (`run.py`). How a step is run, skipped or
redone, and that it can read no more than it declares, is `workflow/engine.py`.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from scalingnote_jax.config import Config, MineConfig
from scalingnote_jax.data import dataset
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.data.members import Members
from scalingnote_jax.devices.mesh import first_process
from scalingnote_jax.evaluate import evaluation as evaluate
from scalingnote_jax.retrieval import build_index, mine
from scalingnote_jax.train import candidates, stage1, stage2, stage3
from scalingnote_jax.vectors import encode
from scalingnote_jax.vectors.trained import RunTowers, teacher_files, weights_hash
from scalingnote_jax.workflow.engine import Made, Output, Place, Settings, step

MIXTURE = ("data.mixture", "data.query_prompts", "data.doc_prompts")
RULES = tuple(  # of mining, whatever the round
    f"mine.{f.name}" for f in fields(MineConfig) if f.name not in ("rounds", "continue_weights")
)
EVERYTHING = tuple(f.name for f in fields(Config) if f.name != "mesh")


@step("data", (), ("data",), output=dataset.content, outside=dataset.source_hash)
def data(made: Made, settings: Settings, place: Place) -> None:
    """Corpus, queries, judgements → data/."""
    if first_process():
        dataset.build_dataset(settings.data, place.folder)


@step("mine", ("data",), (*RULES, *MIXTURE, "seed"), output=mine.content)
def mine_by_words(made: Made, settings: Settings, place: Place, source: Any) -> None:
    """Hard negatives by BM25, or those that the data judges → negatives/."""
    given = settings.mine, settings.data, settings.seed, Collection.open(made.data.folder)
    mine.mine(source, *given, place)


BY_TEACHER = (*RULES, *MIXTURE, "seed", "teacher", "encode", "eval.exact")


@step("mine", ("data", "train"), BY_TEACHER, output=mine.content)
def mine_by_teacher(made: Made, settings: Settings, place: Place) -> None:
    """Hard negatives by a teacher → negatives/."""
    towers, vectors = towers_of(settings, made.train), made.train.folder.parent / "embeddings"
    ranker = mine.Ranker.of(towers, vectors, settings.encode, settings.eval.exact)
    given = settings.mine, settings.data, settings.seed, shown_to_documents(made.data, settings)
    mine.mine("teacher", *given, place, ranker)


STAGE_1 = ("teacher", "train", "seed", "encode.batch_size", *MIXTURE)
TRAINED = {"output": weights_hash, "resumes": True}


@step("train", ("data", "mine", "before"), STAGE_1, outside=teacher_files, **TRAINED)
def train(made: Made, settings: Settings, place: Place) -> None:
    """Stage 1: LLM query tower ⇄ LLM document tower, contrastive → teacher/."""
    collection = shown_to_documents(made.data, settings)
    mined = made.mine and mine.open_negatives(made.mine.folder)
    pairs = stage1.Pairs(collection, Members.of(settings.data, collection), mined)
    start = stage1.Start(settings.encode.batch_size, made.before and made.before.folder)
    stage1.train(settings.train, settings.teacher, settings.seed, pairs, start, place)


@step("encode", ("data", "train"), ("teacher", "encode", "seed"), output=encode.content)
def documents(made: Made, settings: Settings, place: Place) -> None:
    """Document tower → document vectors, computed once → embeddings/teacher-doc/."""
    tower = towers_of(settings, made.train).get("teacher", "doc")
    encode.document_vectors(tower, Collection.open(made.data.folder), settings.encode, place)


READ = ("data", "train", "encode")
STAGE_2 = ("distill", "teacher", "encode", "seed")


@step("distill", READ, STAGE_2, outside=stage2.outside, looks=("documents",), **TRAINED)
def distill(made: Made, settings: Settings, place: Place) -> None:
    """Stage 2: small tower → the teacher's query vectors, query-only → student/."""
    lesson = stage2.Lesson.of(towers_of(settings, made.train, None), settings.encode)
    read_or_seen = made.encode or made.documents  # by terms that compare scores, or by the probe
    given = shown_to_documents(made.data, settings), read_or_seen and read_or_seen.folder, place
    stage2.distill(settings.distill, lesson, *given)


STAGE_3 = (
    "refine", "distill.student", "distill.matryoshka", "teacher", "encode", "seed",
    "eval.exact", *RULES, *MIXTURE,
)  # fmt: skip


@step("refine", (*READ, "distill"), STAGE_3, **TRAINED)
def refine(made: Made, settings: Settings, place: Place) -> None:
    """Stage 3, an option: the student meets the frozen document vectors → student/refined/."""
    lesson = stage2.Lesson.of(towers_of(settings, made.train, made.distill), settings.encode)
    negatives = candidates.Rules(settings.mine, settings.eval.exact)
    collection, sizes = shown_to_documents(made.data, settings), settings.distill.matryoshka
    members = Members.of(settings.data, collection)
    given = settings.refine, lesson, sizes, negatives, collection, members
    stage3.refine(*given, made.encode.folder, place)


INDEX = ("index", "teacher", "encode", "seed", "eval.depth")


@step(
    "index", READ, INDEX, output=build_index.content,
    outside=build_index.library, exclusive=True,
)  # fmt: skip
def index(made: Made, settings: Settings, place: Place) -> None:
    """ScaNN over the document vectors, tuned by held-out queries of the teacher → index/."""
    tower = towers_of(settings, made.train).get("teacher", "query")
    given = tower, made.data.folder, settings.encode, settings.seed
    queries, depth = build_index.TuningQueries(*given), settings.eval.depth
    build_index.make_index(made.encode.folder, settings.index, depth, place, queries)


READ_BY_EVAL = (*READ, "distill", "refine", "index")


@step(
    "eval", READ_BY_EVAL, EVERYTHING, output=evaluate.content, outside=evaluate.outside,
    also=("../report.html",),
)  # fmt: skip
def evaluation(made: Made, settings: Settings, place: Place) -> None:
    """Student, teacher and baselines on the very same index → eval/, report.html."""
    towers = towers_of(settings, made.train, made.distill, made.refine)
    subject = evaluate.Subject.of(
        settings, towers, Collection.open(made.data.folder), place.workdir
    )
    evaluate.evaluate(subject, place.mesh)


def shown_to_documents(data: Output, settings: Settings) -> Collection:
    """The collection as the document tower sees it."""
    return Collection.open(data.folder).as_shown(settings.teacher.doc.text.prompt)


def towers_of(settings: Settings, *trained: Output | None) -> RunTowers:
    """The towers of stages 1, 2 and 3, as far as they are asked for and there."""
    made = zip(("train", "distill", "refine"), trained, strict=False)
    folders = {verb: output.folder for verb, output in made if output}
    student = settings.distill.student if len(trained) > 1 else None
    return RunTowers(settings.teacher, student, settings.seed, folders)
