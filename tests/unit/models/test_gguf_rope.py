"""GGUF files of Llama 3: what their rotation is slowed by is a tensor, and no setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import jax
import numpy as np
import pytest
from small_models import LLAMA_CONFIG, K, llama_tensors, write_gguf, write_hf

from scalingnote_jax.config import RopeScaling, TowerConfig
from scalingnote_jax.errors import UserError
from scalingnote_jax.models.tower import tower_def
from scalingnote_jax.models.weights.pretrained import shape_of

THETA = 500_000.0  # Llama 3's; the four pairs turn 1304, 49, 1.8 and 0.07 times in 8192 positions


def divisors(factor: float, high: float = 4.0) -> np.ndarray:
    """What each pair of dimensions is slowed by, one by one, as the files' makers compute it."""
    out = []
    for i in range(K // 2):
        turns = 8192 * np.float32(THETA) ** np.float32(-2 * i / K) / (2 * np.pi)
        if turns > high:
            out.append(1.0)
        elif turns < 1.0:
            out.append(factor)
        else:
            smooth = (turns - 1.0) / (high - 1.0)
            out.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(out, np.float32)


def write(path: Path, slowed_by: np.ndarray, more: Any = lambda writer: None) -> str:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_freq_base(THETA)
        more(writer)

    return write_gguf(path, llama_tensors() | {"rope_freqs.weight": slowed_by}, change)


def vectors(ref: str) -> np.ndarray:
    tower = tower_def(TowerConfig(weights=ref))
    tokens = np.random.default_rng(0).integers(0, 48, (2, 40)).astype(np.int32)
    apply = jax.jit(tower.apply)
    return np.asarray(apply(tower.pretrained_params(0), tokens, np.ones((2, 40), bool)))


def test_equals_the_folder(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LLAMA_CONFIG | {"rope_theta": THETA, "rope_scaling": scaling}
    folder = write_hf(tmp_path / "m", config, llama_tensors())
    slowed_by = divisors(8.0)
    assert 1.0 == slowed_by[1] < slowed_by[2] < slowed_by[3] == 8.0
    file = write(tmp_path / "m.gguf", slowed_by)
    assert shape_of(file) == shape_of(folder)
    np.testing.assert_allclose(vectors(file), vectors(folder), atol=1e-5)
    plain = write(tmp_path / "plain.gguf", np.ones(K // 2, np.float32))
    assert shape_of(plain).rope_scaling is None  # type: ignore[union-attr]
    assert np.abs(vectors(plain) - vectors(folder)).max() > 1e-3


def test_the_factor_is_found(tmp_path: Path) -> None:
    shape = shape_of(write(tmp_path / "m.gguf", divisors(32.0)))
    assert shape.rope_scaling == RopeScaling("llama3", 32.0)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("slowed_by", "linear"),
    [
        (divisors(8.0, high=3.0), False),
        (divisors(8.0)[:3], False),
        (np.full(K // 2, 2.0, np.float32), False),
        (divisors(8.0), True),
    ],
    ids=["another limit", "too few", "all alike", "beside another stretching"],
)
def test_others_are_refused(slowed_by: np.ndarray, linear: bool, tmp_path: Path) -> None:
    def more(writer: gguf.GGUFWriter) -> None:
        if linear:
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(2.0)

    with pytest.raises(UserError) as error:
        shape_of(write(tmp_path / "m.gguf", slowed_by, more))
    assert f"rope_freqs.weight from {slowed_by.min():g} to {slowed_by.max():g}" in str(error.value)
    assert "\n" not in str(error.value)
