"""ScalingDoc, the paper's second baseline: the small tower for queries and the LLM for documents,
trained end to end.

Command:   scalingnote run scalingdoc --data.path=FOLDER --workdir=runs/scalingdoc
Hardware:  2 CPU cores, 12 GiB of memory
Expect:    a quarter of an hour for a corpus of 4,300; docs/results.md says what came
Smoke:     scalingnote run scalingdoc --smoke
"""

from pathlib import Path

from scalingnote_jax.config import Config, replace
from scalingnote_jax.config.load import load_config


def get_config() -> Config:
    """scalingnote.py with its student's tower for queries from the start, and no stage 2. Both
    sides have a projection to the same D; the query side's is fitted before the first step, or the
    towers would spend theirs on finding each other.
    """
    base = load_config(Path(__file__).with_name("scalingnote.py"))
    return replace(
        base,
        name="scalingdoc",
        teacher=replace(base.teacher, query=base.distill.student),
        train=replace(base.train, fit_query_projection=True),
        distill=replace(base.distill, duration=""),
    )
