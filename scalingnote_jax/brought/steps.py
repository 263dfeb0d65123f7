"""The steps that stand in for those of the method where a person brings what these would make. Each
has the verb, the folder and the kind of output of the step that it replaces, so that all that reads
it is the same. Not for the method itself: `pipeline.py`.
"""

from __future__ import annotations

from scalingnote_jax.vectors import given_towers
from scalingnote_jax.workflow.engine import Made, Place, Settings, step


@step(
    "train", (), ("teacher", "seed"), output=given_towers.content, outside=given_towers.sources
)  # fmt: skip
def towers(made: Made, settings: Settings, place: Place) -> None:
    """The towers as they come, in place of stage 1 → teacher/."""
    given_towers.take(settings.teacher, settings.seed, place)
