"""What a system cost to make: FLOPs, examples and wall time of each stage behind it, so that a
table of systems also says at what price.

FLOPs are those of `models/flops.py`: matrix products forward and backward, as if every text had its
tower's `max_tokens`; the same rule for all systems, and more than what padding to shorter buckets
needs. The few thousand passes of a fitted start are in the seconds only. Seconds are of this
machine. Not for the latency of a query, which is measured in `rows.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scalingnote_jax.config.towers import BY_VECTORS
from scalingnote_jax.evaluate.subject import Subject, Trainings
from scalingnote_jax.files.typed_json import COUNT
from scalingnote_jax.models.flops import step_flops, tower_flops
from scalingnote_jax.models.layers.params import flatten
from scalingnote_jax.models.pair import Towers
from scalingnote_jax.models.tower import TowerDef, tower_def
from scalingnote_jax.systems import TEACHER
from scalingnote_jax.train.log.metrics_log import read_metrics
from scalingnote_jax.train.state import split_frozen
from scalingnote_jax.workflow.artefact import MANIFEST, read_manifest
from scalingnote_jax.workflow.seal import seal_fact
from scalingnote_jax.workflow.workdir import Workdir

Cost = dict[str, Any]


def costs(subject: Subject) -> dict[str, Cost]:
    """Of the rows of each trained system, by its name in the table.

    Returns:
        of each {"flops", "secs": of all its stages; "query_flops": to encode one query of the
        greatest length; "stages": {"train" | "mine" | "encode" | "distill" | "refine":
        {"flops", "secs", and of a training "steps", "examples"}}}.
    """
    workdir, made = subject.workdir, subject.stages
    teacher = subject.towers.teacher
    by_vectors = BY_VECTORS in (teacher.query.weights, teacher.doc.weights)
    if by_vectors or (made.trains and not read_metrics(workdir.teacher / "metrics.jsonl")):
        return {}
    towers, documents = Towers(teacher), len(subject.collection.doc_ids)
    stages = _stage_1(subject.trainings, workdir, towers, documents) if made.trains else {}
    stages |= {"encode": _encoding(workdir, towers, documents)}
    spent = {made.row_name(TEACHER): _sum_up(stages, towers.query)}
    if made.distills:
        student = tower_def(subject.towers.student_config, "distill.student")
        size = subject.trainings.distill.batch_size
        stages |= {"distill": _stage_2(size, workdir, student, towers.query)}
        spent["student"] = spent["student_int8"] = _sum_up(stages, student)
    if made.refines:
        size = subject.trainings.refine.batch_size
        stages |= {"refine": _stage_3(size, workdir, student)}
        spent["refined"] = spent["student_int8"] = _sum_up(stages, student)
    shipped = made.row_name(made.shipped)
    return spent | {"hybrid": spent[shipped]}  # BM25 costs no training


def _sum_up(stages: dict[str, Cost], query: TowerDef) -> Cost:
    total = {key: round(sum(s[key] for s in stages.values()), 1) for key in ("flops", "secs")}
    return total | {"query_flops": tower_flops(query, 1).model, "stages": dict(stages)}


def _stage_1(cfg: Trainings, workdir: Workdir, towers: Towers, documents: int) -> dict[str, Cost]:
    """`documents`: in the corpus."""
    rounds, train = cfg.rounds, cfg.train
    places = [*(workdir.at_round(number) for number in range(len(rounds) - 1)), workdir]
    freeze = towers.freeze(train.learn_temperature)
    trained, _ = split_frozen("teacher", towers.abstract()[0], freeze)
    each = step_flops(train, towers, set(trained)).model
    stages = {"train": _training((p.teacher for p in places), train.batch_size, each)}
    if set(rounds) != {"none"}:
        secs = sum(_secs(p.negatives) for p in places)
        stages["mine"] = {
            "flops": tower_flops(towers.doc, documents).model * list(rounds).count("teacher"),
            "secs": round(secs, 1),
        }
    return stages


def _encoding(workdir: Workdir, towers: Towers, documents: int) -> Cost:
    secs = _secs(workdir.embeddings("teacher", "doc"))
    return {"flops": tower_flops(towers.doc, documents).model, "secs": round(secs, 1)}


def _stage_2(size: int, workdir: Workdir, student: TowerDef, teacher: TowerDef) -> Cost:
    """The teacher's vectors of the query texts included."""
    stage = _training([workdir.student], size, _text_flops(student) * size)
    texts = workdir.embeddings("teacher", "distill")
    if (texts / MANIFEST).is_file():
        fix = "run `scalingnote run` again"
        count = read_manifest(texts, "distill", fix, {"count": COUNT})["count"]
        stage["flops"] += tower_flops(teacher, count).model
    return stage


def _stage_3(size: int, workdir: Workdir, student: TowerDef) -> Cost:
    """The documents' vectors are there; what a step multiplies with them is not worth counting."""
    return _training([workdir.refined], size, _text_flops(student) * size)


def _text_flops(student: TowerDef) -> int:
    """To train it on one text."""
    shapes = flatten(student.abstract()[0])
    trained, _ = split_frozen("distill.student", shapes, student.freeze)
    return tower_flops(student, 1, set(trained)).model


def _training(folders: Iterable[Path], batch_size: int, flops_of_step: int) -> Cost:
    folders = list(folders)
    logs = [read_metrics(folder / "metrics.jsonl") for folder in folders]
    steps = sum(log[-1]["step"] for log in logs if log)
    # What a killed run had done before is in the log alone; what is around the steps in the other
    pairs = zip(folders, logs, strict=True)
    secs = sum(max(_secs(folder), _logged_secs(log)) for folder, log in pairs)
    work = {"steps": steps, "examples": steps * batch_size}
    return work | {"flops": steps * flops_of_step, "secs": round(secs, 1)}


def _logged_secs(log: list[dict[str, Any]]) -> float:
    """A run that goes on counts its seconds from zero."""
    total = last = 0.0
    for record in log:
        if record["secs"] < last:
            total += last
        last = record["secs"]
    return total + last


def _secs(folder: Path) -> float:
    """What the step in `folder` took in its last run; older workdirs do not say."""
    return float(seal_fact(folder, "secs", 0.0))
