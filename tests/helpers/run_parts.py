"""Parts of a run, as its steps get them: for tests that look at one of them."""

from __future__ import annotations

from pathlib import Path

from jax.sharding import Mesh

from scalingnote_jax.config import Config
from scalingnote_jax.vectors.encoder import Encoder, load_encoder
from scalingnote_jax.vectors.pairing import run_towers
from scalingnote_jax.vectors.trained import RunTowers
from scalingnote_jax.workflow.workdir import Workdir


def towers(config: Config, workdir: Workdir) -> RunTowers:
    return run_towers(
        config.teacher, config.distill.student, config.seed, config.stages, workdir
    )


def encoder(config: Config, workdir: Workdir, role: str, side: str, mesh: Mesh) -> Encoder:
    return load_encoder(towers(config, workdir).get(role, side), config.encode, mesh)
