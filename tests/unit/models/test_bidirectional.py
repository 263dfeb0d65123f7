"""Decoders whose config says that tokens see later ones: taken by a bidirectional tower alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from small_exports import SHAPES, exported_tower, vectors_of, word_tokenizer
from small_models import (
    BERT_CONFIG,
    HEAD_NORMS,
    LLAMA_CONFIG,
    SANDWICH,
    bert_tensors,
    llama_tensors,
    vectors,
    write_gguf,
    write_hf,
)

from scalingnote_jax.config import DecoderShape, TextConfig, TowerConfig
from scalingnote_jax.errors import UserError
from scalingnote_jax.export.write_hf import write_body
from scalingnote_jax.models.tower import tower_def
from scalingnote_jax.models.weights.pretrained import open_weights

GEMMA3 = LLAMA_CONFIG | {
    "model_type": "gemma3_text",
    "sliding_window": 6,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_act": "gelu_pytorch_tanh",
    "head_dim": 8,
    "query_pre_attn_scalar": 10,
}
TEXT = TextConfig(max_tokens=16, buckets=(16,))


def refused(ref: str, *parts: str, **tower: Any) -> None:
    with pytest.raises(UserError) as error:
        tower_def(TowerConfig(weights=ref, text=TEXT, **tower))
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_the_tower_has_to_say_it_too(tmp_path: Path) -> None:
    gemma = llama_tensors() | vectors(HEAD_NORMS | SANDWICH)
    for config, tensors in (
        (LLAMA_CONFIG | {"is_causal": False}, llama_tensors()),
        (GEMMA3 | {"use_bidirectional_attention": True}, gemma),
    ):
        ref = write_hf(tmp_path / config["model_type"], config, tensors)
        refused(ref, "tokens see later ones too", "set bidirectional=True in the tower")
        tower = tower_def(TowerConfig(weights=ref, text=TEXT, bidirectional=True))
        assert isinstance(tower.shape, DecoderShape)
        assert tower.pretrained_params(0)["body"]["layers"]["q"].shape[0] == 3
        # Planned without the weights, it is seen when they are read.
        planned = tower_def(TowerConfig(weights=ref, shape=tower.shape, text=TEXT))
        with pytest.raises(UserError, match="set bidirectional=True in the tower"):
            planned.pretrained_params(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mistral", "sliding_window": 6, "is_causal": False}, "is_causal False"),
        (GEMMA3 | {"is_causal": False}, "is_causal False; expected True"),
        (
            GEMMA3 | {"model_type": "gemma2", "use_bidirectional_attention": True},
            "use_bidirectional_attention True; expected False",
        ),
        (
            {
                "model_type": "gemma3",
                "hidden_act": "gelu_pytorch_tanh",
                "text_config": GEMMA3 | {"use_bidirectional_attention": True},
            },
            "use_bidirectional_attention True; expected False",
        ),
    ],
    ids=["mistral", "gemma3_text", "gemma2", "gemma3"],
)
def test_whose_meaning_is_not_known(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    ref = write_hf(tmp_path / "m", LLAMA_CONFIG | change, llama_tensors())
    refused(ref, message, bidirectional=True)


def test_an_encoder_needs_no_such_word(tmp_path: Path) -> None:
    ref = write_hf(tmp_path / "m", BERT_CONFIG | {"is_causal": False}, bert_tensors())
    tower_def(TowerConfig(weights=ref, text=TEXT))


def test_gguf_files_say_it_too(tmp_path: Path) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_causal_attention(False)
        writer.add_sliding_window(6)

    ref = write_gguf(tmp_path / "m.gguf", llama_tensors(), change)
    refused(ref, "set bidirectional=True in the tower")
    assert open_weights(ref, bidirectional=True).bidirectional
    gemma = llama_tensors() | vectors(HEAD_NORMS | SANDWICH)
    ref = write_gguf(tmp_path / "g.gguf", gemma, change, architecture="gemma3")
    refused(ref, "gemma3.attention.causal False; expected True", bidirectional=True)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3_text"])
def test_exported_it_sees_as_much(family: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="the library that it is exported to")
    from transformers import AutoModel

    words = word_tokenizer(tmp_path / "words")
    tower = exported_tower(SHAPES[family], words, bidirectional=True, pooling="cls")
    write_body(tower, tmp_path / "out", "float32")
    model = AutoModel.from_pretrained(str(tmp_path / "out"))
    texts = ["amber basin topic3 ember fjord delta umber dune", "cedar"]
    # One alone too: without padding the other library leaves masks out where it can.
    for batch in (texts, texts[:1]):
        ids = words.encode(batch, 14)
        mask = np.arange(len(ids[0])) < np.array([len(row) for row in ids])[:, None]
        tokens = np.full(mask.shape, words.pad_id)
        tokens[mask] = np.concatenate(ids)
        with torch.no_grad():
            out = model(torch.tensor(tokens), attention_mask=torch.tensor(mask.astype(np.int64)))
        first = out.last_hidden_state[:, 0].numpy()
        first = first / np.linalg.norm(first, axis=1, keepdims=True)
        np.testing.assert_allclose(first, vectors_of(tower, batch), atol=1e-4)
