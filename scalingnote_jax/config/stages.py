"""Which of the method's stages a run has, and what follows: which tower is shipped, and what its
rows are called. Not for what a stage does: `train/`.

A stage whose duration is "" is left out. Without stage 1 the teacher's towers are used as they
come. Without stage 2 the teacher's query tower is what is shipped: TwinBERT and ScalingDoc, the
paper's baselines, are such configs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scalingnote_jax.config.towers import BY_VECTORS

Role = Literal["untrained", "teacher", "student", "student_int8", "refined"]
Side = Literal["query", "doc"]


@dataclass(frozen=True)
class Stages:
    """The stages of one run.

    Attributes:
        name: of the config.
        trains: whether there is a stage 1; without it the teacher's towers are as they come.
        distills: whether there is a stage 2.
        refines: whether there is a stage 3; what it refines is the student.
        asks_teacher: whether the teacher's query tower is here, and not only vectors by it.
    """

    name: str
    trains: bool
    distills: bool
    refines: bool
    asks_teacher: bool = True

    @classmethod
    def of(cls, name: str, train: str, distill: str, refine: str, query: str) -> Stages:
        """From the durations of stages 1, 2 and 3, and the weights of the teacher's query tower."""
        parts = bool(train), bool(distill), bool(distill and refine)
        return cls(name, *parts, query != BY_VECTORS)

    @property
    def shipped(self) -> Role:
        """The query tower that answers: "refined" where there is a stage 3, else "student", or
        "teacher" where there is no stage 2.
        """
        if self.refines:
            return "refined"
        return "student" if self.distills else "teacher"

    def row_name(self, system: str) -> str:
        """What the rows of a system are called. Without stage 2 there is nothing that the towers of
        stage 1 teach: they are the config's own system ("twinbert", "scalingdoc"); towers as they
        come are "model".
        """
        if system != "teacher" or self.distills:
            return system
        return self.name if self.trains else "model"
