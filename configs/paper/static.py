"""The cheapest query tower: token vectors looked up, their mean, a linear head; no layers
(LightRetriever looks its queries up too). What the student's layers are worth is what this one
lacks.

Command:   scalingnote run static --data.path=FOLDER --workdir=runs/static
           Add --reuse=runs/scalingnote to take over its teacher.
End to end, without a teacher: --teacher.query.num_layers=-1 --teacher.query.lora.rank=0
           --distill.duration=
Hardware:  2 CPU cores, 16 GiB of memory
Expect:    2 minutes with the teacher taken over; docs/results.md says what came
Smoke:     scalingnote run static --smoke
"""

from pathlib import Path

from scalingnote_jax.config import Config, replace
from scalingnote_jax.config.load import load_config


def get_config() -> Config:
    """scalingnote.py with a student without layers; its table is what it learns."""
    base = load_config(Path(__file__).with_name("scalingnote.py"))
    student = replace(base.distill.student, num_layers=-1, freeze=())
    return replace(base, name="static", distill=replace(base.distill, student=student))
