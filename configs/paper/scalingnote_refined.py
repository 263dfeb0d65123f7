"""ScalingNote with stage 3: the student refined against the frozen document vectors.

Command:   scalingnote run scalingnote_refined --data.path=FOLDER --workdir=runs/refined
           Add --reuse=runs/scalingnote to go on from the teacher and the student that are there.
Hardware:  2 CPU cores, 16 GiB of memory
Expect:    scalingnote.py's time and 3 minutes; docs/results.md says what came
Smoke:     scalingnote run scalingnote_refined --smoke
"""

from pathlib import Path

from scalingnote_jax.config import Config, replace
from scalingnote_jax.config.load import load_config


def get_config() -> Config:
    """scalingnote.py, and as many pairs once more in stage 3 as stage 1 has seen."""
    base = load_config(Path(__file__).with_name("scalingnote.py"))
    refine = replace(
        base.refine,
        duration=base.train.duration,
        batch_size=base.train.batch_size,
        optim=replace(base.refine.optim, learning_rate=3e-4),  # a third of stage 2's
    )
    return replace(base, name="scalingnote_refined", refine=refine)
