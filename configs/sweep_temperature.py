"""The paper's open settings first: the temperature of stage 1, and what the weights of its two
losses of vectors add to the score KL of stage 2; each varied alone, on fewer layers of the LLM.

Command:   scalingnote sweep configs/sweep_temperature.py --data.path=FOLDER
Hardware:  2 CPU cores, 8 GiB of memory; cells of one temperature share their teacher
Expect:    half an hour a cell, half of that where the teacher is shared; 21 cells
Smoke:     scalingnote sweep configs/sweep_temperature.py --smoke
"""

from pathlib import Path

from scalingnote_jax.config import replace
from scalingnote_jax.config.load import load_config
from scalingnote_jax.sweep import Sweep


def get_sweep() -> Sweep:
    """A weight of zero leaves a loss out. Three seeds: what one training does is luck, too."""
    base = load_config(Path(__file__).parent / "paper" / "scalingnote.py")
    query = replace(base.teacher.query, num_layers=12)
    teacher = replace(base.teacher, query=query, doc=replace(base.teacher.doc, num_layers=12))
    return Sweep(
        replace(base, name="sweep_temperature", teacher=teacher),
        axes={
            "train.temperature": (0.02, 0.05, 0.1),
            "distill.w_mse": (0.0, 1.0, 10.0),
            "distill.w_cos": (0.0, 1.0, 10.0),
        },
        seeds=(0, 1, 2),
    )
