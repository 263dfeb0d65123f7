"""What a batch must be a multiple of: the devices that share it, and the parts that it is worked on
in.
"""

from __future__ import annotations

from typing import Any

import jax
import pytest

from scalingnote_jax.config import MeshConfig, RefineConfig, TrainConfig
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.errors import UserError
from scalingnote_jax.train.prepare import check_batch


def check(cfg: Any, devices: int = 4, section: str = "train") -> None:
    check_batch(section, cfg, make_mesh(MeshConfig(), jax.devices()[:devices]))


def test_a_batch_that_divides() -> None:
    check(TrainConfig(batch_size=4))
    check(TrainConfig(batch_size=48, accumulate=2, encode_chunks=3), 8)
    check(TrainConfig(batch_size=7, pack_documents=True), 1)
    check(RefineConfig(batch_size=8, accumulate=2), 4, "refine")


@pytest.mark.parametrize(
    ("cfg", "says"),
    [
        (TrainConfig(batch_size=6), "--train.batch_size: 6 rows over 4 devices of the slice, data "
         "and fsdp axes; expected a multiple of 4; set it to 8"),
        (TrainConfig(batch_size=16, accumulate=2, encode_chunks=3), "fsdp axes in 6 parts; "
         "expected a multiple of 24; set it to 24"),
        (TrainConfig(batch_size=0), "--train.batch_size: 0 rows over 4 devices of the slice, data "
         "and fsdp axes; expected a multiple of 4; set it to 4"),
        (TrainConfig(accumulate=0), "--train.accumulate: 0; expected at least 1"),
        (TrainConfig(encode_chunks=0), "--train.encode_chunks: 0; expected at least 1"),
        (TrainConfig(accumulate=2, pack_documents=True), "--train.accumulate: 2 with packed"),
    ],
)  # fmt: skip
def test_a_batch_that_does_not(cfg: TrainConfig, says: str) -> None:
    with pytest.raises(UserError) as error:
        check(cfg)
    assert says in str(error.value)
