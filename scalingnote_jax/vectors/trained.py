"""The towers of one run: what each is, where its weights are, and what stands for them in the
manifests of what it made. Not for loading them: `encoder.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from scalingnote_jax.config import TowerConfig, TowersConfig
from scalingnote_jax.config.stages import Role, Side
from scalingnote_jax.config.values import section_hash
from scalingnote_jax.errors import bad_input
from scalingnote_jax.hashing import content_hash
from scalingnote_jax.hub import content_of
from scalingnote_jax.models.from_teacher import student_config
from scalingnote_jax.models.weights.checkpoint_meta import newest_step, read_meta
from scalingnote_jax.systems import REGISTRY
from scalingnote_jax.workflow.workdir import output_of

STUDENTS = tuple(system.query for system in REGISTRY.values() if system.student)


@dataclass(frozen=True)
class TrainedTower:
    """One tower of a run.

    Attributes:
        role: "teacher", "student", …; "untrained" is the teacher as it was before stage 1.
        side: of its texts.
        cfg: its config, complete.
        prefix: of its parameters in a checkpoint.
        seed: of weights that are drawn, where there are no trained ones.
        folder: of the training that made it; None for the untrained.
        verb: the step that makes it.
        untrained_as: what stands for weights that nothing trained.
    """

    role: Role
    side: Side
    cfg: TowerConfig
    prefix: str
    seed: int
    folder: Path | None
    verb: str
    untrained_as: str

    @property
    def identity(self) -> str:
        """What stands for the tower's weights in a manifest.

        Raises:
            UserError: it was not trained yet.
        """
        return self.untrained_as if self.folder is None else output_of(self.folder, self.verb)

    def store(self, vectors: Path) -> Path:
        """The folder of its vectors, `vectors` being a workdir's `embeddings`."""
        return vectors / f"{self.role}-{self.side}"


def weights_hash(folder: Path) -> str:
    """Content hash of the weights in a training's newest checkpoint: of their values, however they
    lie in files.

    Raises:
        UserError: there is no checkpoint, or it is damaged.
    """
    step = newest_step(folder / "checkpoints")
    if step is None:
        given, fix = "no checkpoint", "run the step that trains it again"
        raise bad_input(str(folder / "checkpoints"), given, "that of a finished training", fix)
    return content_hash(read_meta(folder / "checkpoints" / str(step))["sums"]["params"])


def teacher_files(settings: Any) -> list[Any]:
    """The content of the weights and tokenizers that the teacher's towers start from: other files
    under the same name make another teacher.
    """
    return [_files_of(tower) for tower in (settings.teacher.query, settings.teacher.doc)]


def student_files(settings: Any) -> list[Any]:
    """As `teacher_files`, of the student."""
    return _files_of(settings.distill.student)


def _files_of(tower: TowerConfig) -> list[Any]:
    own = tower.weights != "random" and not tower.weights.startswith("teacher:")
    tokenizer = tower.tokenizer or tower.weights
    named = tokenizer not in ("random", "bytes") and not tokenizer.startswith("teacher:")
    return [
        content_of(tower.weights) if own else None,
        content_of(tokenizer, tokenizer=True) if named else None,
    ]


@dataclass(frozen=True)
class RunTowers:
    """All towers of a run.

    Attributes:
        teacher: both of stage 1.
        student: as the config has it; None: no student is asked for.
        seed: of the run.
        folders: of the trainings, by their verbs: "train", "distill" and, where there is a stage 3,
            "refine".
    """

    teacher: TowersConfig
    student: TowerConfig | None
    seed: int
    folders: Mapping[str, Path]

    @cached_property
    def student_config(self) -> TowerConfig:
        """The student's, complete."""
        assert self.student is not None, "no student is asked for"
        return student_config(self.student, self.teacher.query)

    def get(self, role: str, side: str) -> TrainedTower:
        """A tower for a side.

        Raises:
            UserError: there is none: a student has no document tower, documents stay the teacher's.
        """
        known = [(r, s) for r in get_args(Role) for s in get_args(Side)]
        known = [pair for pair in known if pair[0] not in STUDENTS or pair[1] == "query"]
        for own_role, own_side in known:
            if (own_role, own_side) == (role, side):
                break
        else:
            names = ", ".join(" ".join(pair) for pair in known)
            given = f"tower {role!r}, side {side!r}"
            raise bad_input("encode", given, f"one of {names}", "name one")
        if own_role in STUDENTS:
            cfg, prefix, verb = self.student_config, "student", self._makes(own_role)
        else:
            cfg = self.teacher.query if own_side == "query" else self.teacher.doc
            prefix, verb = "shared" if self.teacher.share else own_side, "train"
        folder = None if own_role == "untrained" else self.folders[verb]
        drawn = section_hash(self.teacher, self.seed)
        return TrainedTower(own_role, own_side, cfg, prefix, self.seed, folder, verb, drawn)

    def _makes(self, student: str) -> str:
        refined = student == "refined" or (student == "student_int8" and "refine" in self.folders)
        return "refine" if refined else "distill"
