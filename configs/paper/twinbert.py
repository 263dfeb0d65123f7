"""TwinBERT, the paper's first baseline: the small tower on both sides, trained end to end.

Command:   scalingnote run twinbert --data.path=FOLDER --workdir=runs/twinbert
Hardware:  2 CPU cores, 6 GiB of memory
Expect:    3 minutes; docs/results.md says what came
Smoke:     scalingnote run twinbert --smoke
"""

from pathlib import Path

from scalingnote_jax.config import Config, TowersConfig, replace
from scalingnote_jax.config.load import load_config


def get_config() -> Config:
    """scalingnote.py with its student's tower on both sides, and no stage 2."""
    base = load_config(Path(__file__).with_name("scalingnote.py"))
    query = base.distill.student
    return replace(
        base,
        name="twinbert",
        teacher=TowersConfig(query=query, doc=replace(query, text=base.teacher.doc.text)),
        distill=replace(base.distill, duration=""),
    )
