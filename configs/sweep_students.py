"""Which student? MiniLM's first 1, 2 and 4 layers as the query tower for MiniLM's own document
vectors.

Command:   scalingnote sweep sweep_students --keep "Recall@50 99%"
Hardware:  2 CPU cores, 4 GiB of memory; data and document vectors are made once
Expect:    about 2 minutes a cell, 2 more for what they share
"""

from pathlib import Path

from scalingnote_jax.config.load import load_config
from scalingnote_jax.sweep import Sweep


def get_sweep() -> Sweep:
    """Cells share all but stage 2 and the evaluation."""
    base = load_config(Path(__file__).with_name("bring.py"))
    return Sweep(base, axes={"distill.student.num_layers": (1, 2, 4)})
