"""The systems that an evaluation can compare: the one list of their names, towers and looks.

Every other place asks here, so that a system is added by one entry. Not for how a tower is loaded
(`vectors/trained.py`) or scored (`evaluate/rows.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scalingnote_jax.config.stages import Role, Stages


@dataclass(frozen=True)
class Look:
    """How a system is drawn.

    Attributes:
        series: the number of its colour in the report's palette (`--series-1`, …).
        dash: matplotlib's line style.
        marker: matplotlib's marker.
    """

    series: int
    dash: Any
    marker: str

    @property
    def colour(self) -> str:
        """A placeholder, for which the page puts the palette's colour."""
        return f"#{0x101112 + 0x030303 * (self.series - 1):06x}"


@dataclass(frozen=True)
class System:
    """One system.

    Attributes:
        name: as in `eval.systems`.
        label: as a person reads it.
        look: how it is drawn.
        query: its query tower; None matches words.
        doc: the tower of the document vectors that it searches; None for words.
        student: whether its query tower was distilled.
        indexed: whether the ScaNN index is over its document vectors.
        elsewhere: whether it is tested on further collections and disturbed queries too.
        fused: whether it is the shipped tower and BM25 together.
        note: behind the tower's name in the table.
    """

    name: str
    label: str
    look: Look
    query: Role | None = None
    doc: Role | None = None
    student: bool = False
    indexed: bool = False
    elsewhere: bool = True
    fused: bool = False
    note: str = ""


_IN_TURN = (0, (6, 1.5, 1.5, 1.5, 1.5, 1.5))

REGISTRY: dict[str, System] = {
    system.name: system
    for system in (
        System("bm25", "BM25", Look(3, ":", "^")),
        System(
            "untrained",
            "Untrained",
            Look(4, "-.", "D"),
            query="untrained",
            doc="untrained",
            elsewhere=False,
            note=" (untrained)",
        ),
        System(
            "teacher",
            "Teacher",
            Look(2, "--", "s"),
            query="teacher",
            doc="teacher",
            indexed=True,
        ),
        System(
            "student",
            "Student",
            Look(1, "-", "o"),
            query="student",
            doc="teacher",
            student=True,
            indexed=True,
        ),
        System(
            "student_int8",
            "Student, int8",
            Look(5, _IN_TURN, "v"),
            query="student_int8",
            doc="teacher",
            student=True,
            indexed=True,
            note=" (int8)",
        ),
        System(
            "refined",
            "Student, refined",
            Look(6, (0, (3, 1, 1, 1)), "P"),
            query="refined",
            doc="teacher",
            student=True,
            indexed=True,
        ),
        # Its tower is what the run ships
        System(
            "hybrid",
            "Hybrid",
            Look(7, (0, (5, 2)), "*"),
            doc="teacher",
            indexed=True,
            elsewhere=False,
            fused=True,
        ),
    )
}


TEACHER, WORDS = "teacher", "bm25"


def is_student(name: str) -> bool:
    """Whether a row of this name is of a distilled query tower."""
    return name in REGISTRY and REGISTRY[name].student


def is_lexical(name: str) -> bool:
    """Whether a row of this name matches words, so that nothing was trained for it."""
    return name in REGISTRY and REGISTRY[name].query is None and not REGISTRY[name].fused


def is_elsewhere(name: str) -> bool:
    """Whether a row of this name is tested on further collections; a run that was read may be."""
    return name not in REGISTRY or REGISTRY[name].elsewhere


def label(name: str) -> str:
    """What a person reads for a system's row; a run that was read keeps its own name."""
    return REGISTRY[name].label if name in REGISTRY else name


def systems_of(stages: Stages, wanted: Sequence[str]) -> list[System]:
    """Those of `eval.systems` that a run has. Without stage 1 what is untrained is the teacher; a
    teacher that is known by its vectors has no tower to ask; without stage 2 there is no student.
    With stage 3 the refined student is one where the student is.
    """
    found: list[str] = []
    missing = {"refined"} | (set() if stages.trains else {"untrained"})
    missing |= set() if stages.asks_teacher else {TEACHER}
    for name in wanted:
        if name not in missing and (stages.distills or not REGISTRY[name].student):
            found.append(name)
        if name in ("student", "refined") and stages.refines and "refined" not in found:
            found.append("refined")
    return [REGISTRY[name] for name in found]
