"""The generative term has the embedding table for its head: others are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_models import LLAMA_CONFIG, E, V, llama_tensors, write_gguf, write_hf

from scalingnote_jax.config import TowerConfig, TrainConfig
from scalingnote_jax.errors import UserError
from scalingnote_jax.losses.query_prediction import check_own_head

GENERATIVE = TrainConfig(title_prediction="generative")
OWN = {"lm_head.weight": np.zeros((V, E), np.float32)}
TIED = LLAMA_CONFIG | {"tie_word_embeddings": True}


def test_tied_and_random_weights_are_taken(tmp_path: Path) -> None:
    tied = write_hf(tmp_path / "m", TIED, llama_tensors())
    for weights in (tied, write_gguf(tmp_path / "m.gguf", llama_tensors()), "random"):
        check_own_head(GENERATIVE, TowerConfig(weights=weights))


@pytest.mark.parametrize(
    ("config", "tensors", "says"),
    [
        (LLAMA_CONFIG, OWN, r"its own: lm_head\.weight \(tie_word_embeddings is false\)"),
        (LLAMA_CONFIG, {}, "which is not in the folder"),
        (TIED | {"final_logit_softcapping": 30.0}, {}, "final_logit_softcapping 30"),
    ],
)
def test_another_head_is_refused(config: dict, tensors: dict, says: str, tmp_path: Path) -> None:
    ref = write_hf(tmp_path / "m", config, llama_tensors() | tensors)
    with pytest.raises(UserError, match=says):
        check_own_head(GENERATIVE, TowerConfig(weights=ref))
    check_own_head(TrainConfig(title_prediction="contrastive"), TowerConfig(weights=ref))


def test_a_gguf_file_with_a_head(tmp_path: Path) -> None:
    tensors = llama_tensors() | {"output.weight": OWN["lm_head.weight"]}
    path = write_gguf(tmp_path / "m.gguf", tensors)
    with pytest.raises(UserError, match=r"its own: output\.weight; expected"):
        check_own_head(GENERATIVE, TowerConfig(weights=path))
