"""Which of the optional stages a config has, and what follows from it: which tower is shipped, and
what its rows are called.

A stage whose duration is "" is left out. Without stage 2 the query tower of stage 1 is what is
shipped: TwinBERT and ScalingDoc, the paper's baselines, are such configs. Not for what a stage
does.
"""

from __future__ import annotations

from scalingnote_jax.config import Config


def distills(config: Config) -> bool:
    """Whether there is a stage 2."""
    return bool(config.distill.duration)


def refines(config: Config) -> bool:
    """Whether there is a stage 3; what it refines is the student."""
    return distills(config) and bool(config.refine.duration)


def shipped_tower(config: Config) -> str:
    """The query tower that answers: "refined" where there is a stage 3, else "student", or
    "teacher" where there is no stage 2.
    """
    if refines(config):
        return "refined"
    return "student" if distills(config) else "teacher"


def systems(config: Config) -> list[str]:
    """Those of `eval.systems` that there are: without stage 2 there is no student. With stage 3 the
    refined student is one where the student is.
    """
    found: list[str] = []
    for system in config.eval.systems:
        if system != "refined" and (distills(config) or not system.startswith("student")):
            found.append(system)
        if system in ("student", "refined") and refines(config) and "refined" not in found:
            found.append("refined")
    return found


def row_name(config: Config, tower: str) -> str:
    """What the rows of a tower are called. Without stage 2 there is nothing that the towers of
    stage 1 teach: they are the config's own system ("twinbert", "scalingdoc").
    """
    return config.name if tower == "teacher" and not distills(config) else tower
