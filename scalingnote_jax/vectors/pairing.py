"""Which student belongs to which document vectors.

A student learns one teacher's query vectors, so it finds documents among that teacher's vectors
only: with others its scores look right and its documents are wrong. Its checkpoint names the
teacher by the hash of its weights, as the vector store does, and says what its own tower is. So any
student of the teacher works on the index as it is, in its own workdir or copied from another. Not
for loading towers: `encoder.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalingnote_jax.config import Config, DistillConfig, Stages, TowerConfig, TowersConfig, replace
from scalingnote_jax.config.check_fields import check_fields
from scalingnote_jax.config.values import read_workdir_config, section_from_json, to_json
from scalingnote_jax.errors import bad_input
from scalingnote_jax.files.guard import reading
from scalingnote_jax.models.weights.checkpoint_meta import newest_step, read_meta
from scalingnote_jax.systems import System
from scalingnote_jax.vectors.trained import RunTowers
from scalingnote_jax.workflow.workdir import Workdir, output_of, read_done


def pairing_meta(teacher: str, tower: TowerConfig) -> dict[str, Any]:
    """What the checkpoint of a query tower says beside its weights.

    Args:
        teacher: `identity` of the teacher whose document vectors it is to be used with.
        tower: its own config, complete (`student_config`).
    """
    return {"teacher": teacher, "tower": to_json(tower)}


@dataclass(frozen=True)
class Student:
    """What a student's folder says of itself.

    Attributes:
        folder: where it is.
        teacher: `identity` of its teacher.
        tower: its config.
    """

    folder: Path
    teacher: str
    tower: TowerConfig

    @classmethod
    def read(cls, folder: Path, verb: str) -> Student:
        """Reads the newest checkpoint's description, no weights.

        Args:
            verb: of the step that makes it: "distill" or "refine".

        Raises:
            UserError: it is not there or not finished, or from before such descriptions.
        """
        output_of(folder, verb)
        meta = _newest_meta(folder / "checkpoints")
        if not {"teacher", "tower"} <= meta.keys():
            raise bad_input(
                str(folder),
                "its checkpoint, of an earlier version, does not say which teacher it learned from",
                "a student of this version",
                f"delete the folder and run `scalingnote {verb}` again",
            )
        with reading(folder, "the description of a student", "train it again"):
            tower = section_from_json(TowerConfig, meta["tower"])
            check_fields(tower, "student.")
            return cls(folder, str(meta["teacher"]), tower)

    def check(self, teacher: str) -> None:
        """Checks that it may be compared with the document vectors of the teacher with this hash.

        Raises:
            UserError: it learned from another one.
        """
        if self.teacher != teacher:
            raise bad_input(
                str(self.folder),
                f"a student of another teacher ({self.teacher[:12]})",
                f"one of the teacher that the document vectors are from ({teacher[:12]})",
                "name a student of that teacher, or run `scalingnote distill` for it",
            )


def run_towers(
    teacher: TowersConfig, student: TowerConfig, seed: int, stages: Stages, workdir: Workdir
) -> RunTowers:
    """The towers of a workdir."""
    folders = {"train": workdir.teacher, "distill": workdir.student}
    folders |= {"refine": workdir.refined} if stages.refines else {}
    return RunTowers(teacher, student, seed, folders)


def served_config(workdir: Workdir, teacher: str | None = None) -> Config:
    """A workdir's config with the student that is in the student's folder, wherever that came from;
    as it is while there is none, or where the config has no stage 2.

    Args:
        workdir: one with a student named from elsewhere has stage 2, and stage 3 if that one has.
        teacher: `identity` of the teacher that the document vectors are from; None: this workdir's,
            if it is there. A workdir that only answers queries needs none.

    Raises:
        UserError: the student learned from another teacher, or what is named is none.
    """
    config = read_workdir_config(workdir.root)
    named = workdir.student != workdir.root / "student"
    if named:  # it has stage 2, and stage 3 or not; a stage without a duration would be none
        refined = read_done(workdir.refined) is not None
        distill, refine = (
            s.duration or DistillConfig.duration for s in (config.distill, config.refine)
        )
        config = replace(
            config,
            distill=replace(config.distill, duration=distill),
            refine=replace(config.refine, duration=refine if refined else ""),
        )
    stages = config.stages
    folder, verb = (workdir.refined, "refine") if stages.refines else (workdir.student, "distill")
    if not stages.distills or not (named or read_done(folder)):
        return config
    student, here = Student.read(folder, verb), read_done(workdir.teacher)
    wanted = teacher or (here and here["output"])
    if wanted:
        student.check(wanted)
    return replace(config, distill=replace(config.distill, student=student.tower))


def check_students(towers: RunTowers, systems: Iterable[System]) -> None:
    """Checks that the students among the systems of an evaluation learned from this run's teacher.

    Raises:
        UserError: one did not.
    """
    students = [towers.get(str(s.query), "query") for s in systems if s.student]
    for folder, verb in {(tower.folder, tower.verb) for tower in students}:
        assert folder is not None, "students are trained"
        Student.read(folder, verb).check(towers.get("teacher", "query").identity)


def _newest_meta(folder: Path) -> dict[str, Any]:
    """What the newest checkpoint says of itself."""
    step = newest_step(folder)
    assert step is not None, "a finished run has a checkpoint"
    return read_meta(folder / str(step))
