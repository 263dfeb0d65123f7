"""The steps that stand in for those of the method where a person brings what these would make. Each
has the verb, the folder and the kind of output of the step that it replaces, so that all that reads
it is the same. Which one a config has is decided in `run.py`. Not for the method: `pipeline.py`.
"""

from __future__ import annotations

from typing import Any

from scalingnote_jax.brought import take_vectors, teacher_vectors
from scalingnote_jax.brought.agreement import Searched, agreement
from scalingnote_jax.config.towers import BY_VECTORS
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.evaluate import evaluation as evaluate
from scalingnote_jax.pipeline import STAGE_2, shown_to_documents, towers_of
from scalingnote_jax.retrieval.scann.scann_index import ScannIndex
from scalingnote_jax.retrieval.texts import CollectionTexts
from scalingnote_jax.train import stage2
from scalingnote_jax.vectors import encode, given_towers
from scalingnote_jax.vectors.store import VectorStore
from scalingnote_jax.vectors.taught import taught_by_tower
from scalingnote_jax.vectors.trained import weights_hash
from scalingnote_jax.workflow.engine import Made, Place, Settings, step


def _sources(settings: Any) -> dict[str, Any]:
    return given_towers.sources(settings.teacher) | {"vectors": _unknown(settings)}


def _unknown(settings: Any) -> str:
    """The hash of the vectors that a tower is known by, if one is known by its vectors alone."""
    if BY_VECTORS not in (settings.teacher.query.weights, settings.teacher.doc.weights):
        return ""
    if settings.encode.vectors:
        return take_vectors.content(settings)
    return teacher_vectors.content(settings)


def _taught_from(settings: Any) -> str:
    return teacher_vectors.content(settings) if settings.distill.query_vectors else ""


@step(
    "train", (), ("teacher", "seed", "encode.vectors", "distill.query_vectors"),
    output=given_towers.content, outside=_sources,
)  # fmt: skip
def towers(made: Made, settings: Settings, place: Place) -> None:
    """The towers as they come, in place of stage 1 → teacher/."""
    given_towers.take(settings.teacher, settings.seed, _unknown(settings), place)


@step(
    "encode", ("data", "train"), ("teacher", "encode", "seed"), output=encode.content,
    outside=take_vectors.content,
)  # fmt: skip
def documents(made: Made, settings: Settings, place: Place) -> None:
    """Document vectors that others have made → embeddings/teacher-doc/."""
    given = settings.encode, towers_of(settings, made.train), Collection.open(made.data.folder)
    take_vectors.take_vectors(*given, place)


@step(
    "distill", ("data", "train", "encode"), STAGE_2, output=weights_hash, resumes=True,
    looks=("documents",), outside=teacher_vectors.content,
)  # fmt: skip
def distill(made: Made, settings: Settings, place: Place) -> None:
    """Stage 2 on texts that came with the teacher's vectors of them → student/."""
    towers = towers_of(settings, made.train, None)
    lesson = stage2.Lesson.of(towers, settings.encode)
    collection = shown_to_documents(made.data, settings)
    vectors = made.encode or made.documents
    given = settings.distill, lesson, collection, vectors and vectors.folder, place
    stage2.distill(*given, teacher_vectors.given_texts(*given))


@step(
    "eval",
    ("data", "train", "encode", "distill", "index"),
    ("name", "seed", "teacher", "encode", "distill", "eval"),
    output=evaluate.content,
    outside=_taught_from,
)
def evaluation(made: Made, settings: Settings, place: Place) -> None:
    """Without texts: the student against the teacher's own best documents → eval/."""
    towers = towers_of(settings, made.train, made.distill)
    lesson = stage2.Lesson.of(towers, settings.encode)
    collection, store = Collection.open(made.data.folder), VectorStore.open(made.encode.folder)
    given = settings.distill, lesson, collection
    if settings.distill.query_vectors:
        taught = teacher_vectors.given_texts(*given, made.encode.folder, place)
    else:
        by_tower = lesson.teacher, settings.encode, settings.seed
        taught = taught_by_tower(settings.distill, collection, *by_tower, place)
    index = ScannIndex.open(made.index.folder, store.fingerprint)
    searched = Searched(store, index, CollectionTexts(collection), settings.eval, place.mesh)
    student = towers.get("student", "query") if made.distill else None
    agreement(settings.name, student, taught, searched, settings.encode, settings.seed, place)
