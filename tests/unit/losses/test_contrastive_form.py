"""Which form of the loss is taken, from bytes that can be counted."""

from __future__ import annotations

import jax
import pytest

from scalingnote_jax.config import MeshConfig, TrainConfig, replace
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.losses.blockwise import blockwise_loss
from scalingnote_jax.losses.contrastive import contrastive_loss
from scalingnote_jax.losses.contrastive_form import (
    OneWay,
    contrastive_form,
    dense_score_bytes,
    held_score_bytes,
    is_blockwise,
)

CFG = TrainConfig()
ONE_WAY = OneWay(None)


def test_bytes_of_the_scores() -> None:
    """Four for each: 8 queries × 24 documents, and 8 × 8 back; shared by the devices."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:2])
    assert dense_score_bytes(ONE_WAY, 8, 24, None) == 4 * 8 * 24
    assert dense_score_bytes(CFG, 8, 24, None) == 4 * 8 * (24 + 8)
    assert dense_score_bytes(CFG, 8, 24, mesh) == 2 * 8 * (24 + 8)


def test_auto_takes_tiles_above_32_mib() -> None:
    # 2,048 × (2,048 + 2,048) scores of 4 bytes are 32 MiB
    assert not is_blockwise(CFG, 2048, 2048, None)
    assert is_blockwise(CFG, 2048, 2049, None)
    assert is_blockwise(replace(CFG, loss="blockwise"), 8, 8, None)
    assert not is_blockwise(replace(CFG, loss="dense"), 1 << 20, 1 << 20, None)


def test_bytes_that_are_held() -> None:
    blocks = replace(CFG, loss="blockwise", loss_tile=16)
    assert held_score_bytes(blocks, 8, 64, None) == 4 * 8 * (64 + 8) // 4
    assert held_score_bytes(replace(blocks, loss_tile=128), 8, 64, None) == 4 * 8 * (64 + 8)
    assert held_score_bytes(replace(CFG, loss="dense"), 8, 64, None) == 4 * 8 * (64 + 8)


@pytest.mark.parametrize(
    ("loss", "form"), [("dense", contrastive_loss), ("blockwise", blockwise_loss)]
)
def test_the_settings_of_the_config_are_filled_in(loss: str, form: object) -> None:
    cfg = replace(
        CFG, loss=loss, symmetric=False, false_negative_margin=0.2, w_spread=0.3, loss_tile=4
    )
    made = contrastive_form(cfg, 8, 8, None)
    expected = {"symmetric": False, "false_negative_margin": 0.2, "w_spread": 0.3}
    more = {"tile": 4, "mesh": None} if loss == "blockwise" else {}
    assert (made.func, made.keywords) == (form, expected | more)


def test_stage_3_has_one_direction_and_no_spread() -> None:
    assert (ONE_WAY.symmetric, ONE_WAY.w_spread, ONE_WAY.loss) == (False, 0.0, "auto")
