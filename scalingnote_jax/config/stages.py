"""Which of the method's stages a run has, and what follows: which tower is shipped, and what its
rows are called. Not for what a stage does: `train/`.

A stage whose duration is "" is left out. Without stage 2 the query tower of stage 1 is what is
shipped: TwinBERT and ScalingDoc, the paper's baselines, are such configs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["untrained", "teacher", "student", "student_int8", "refined"]
Side = Literal["query", "doc"]


@dataclass(frozen=True)
class Stages:
    """The optional stages of one run.

    Attributes:
        name: of the config.
        distills: whether there is a stage 2.
        refines: whether there is a stage 3; what it refines is the student.
    """

    name: str
    distills: bool
    refines: bool

    @classmethod
    def of(cls, name: str, distill_duration: str, refine_duration: str) -> Stages:
        """From the durations of stages 2 and 3."""
        distills = bool(distill_duration)
        return cls(name, distills, distills and bool(refine_duration))

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
        stage 1 teach: they are the config's own system ("twinbert", "scalingdoc").
        """
        return self.name if system == "teacher" and not self.distills else system
