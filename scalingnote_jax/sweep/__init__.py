"""`scalingnote sweep SWEEP.py`: one config, some of its fields over lists of values, with seeds.

    spec.py        what a sweep file says       cells.py      the runs that follow from it
    run_cells.py   one process for each run     points.py     numbers over seeds and queries
    sweep_page.py  sweep.html                   run_sweep.py  the verb

A cell is an ordinary workdir, made by an ordinary `scalingnote run`, which takes over the steps
that it has in common with the cells before it (`reuse.py`).
"""

from scalingnote_jax.sweep.spec import Sweep

__all__ = ["Sweep"]
