"""Fields that change no number: which they are, and that a workdir stays its config's."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalingnote_jax.config import Config
from scalingnote_jax.config.load import apply_overrides
from scalingnote_jax.config.neutral import is_neutral
from scalingnote_jax.config.values import field_values, read_workdir_config
from scalingnote_jax.errors import UserError
from scalingnote_jax.startup import claim_workdir

CONFIG = Config("test")


def test_all_neutral_fields() -> None:
    assert sorted(filter(is_neutral, field_values(CONFIG))) == [
        "distill.checkpoint_every",
        "distill.log_every",
        "distill.probe_every",
        "distill.student.remat",
        "encode.batch_size",
        "encode.shard_rows",
        "mesh.data",
        "mesh.fsdp",
        "mesh.slice",
        "mesh.tensor",
        "refine.checkpoint_every",
        "refine.log_every",
        "teacher.doc.remat",
        "teacher.query.remat",
        "train.checkpoint_every",
        "train.encode_chunks",
        "train.log_every",
        "train.loss",
        "train.loss_tile",
    ]


def test_a_workdir_is_gone_on_with_when_only_those_change(tmp_path: Path) -> None:
    claim_workdir(CONFIG, tmp_path, overwrite=False)
    words = ["--mesh.fsdp=2", "--train.log_every=1 steps", "--teacher.doc.remat=full"]
    other = apply_overrides(CONFIG, words)
    claim_workdir(other, tmp_path, overwrite=False)
    assert read_workdir_config(tmp_path) == other
    with pytest.raises(UserError, match=r"train\.accumulate is 1 there"):
        claim_workdir(apply_overrides(other, ["--train.accumulate=2"]), tmp_path, overwrite=False)
