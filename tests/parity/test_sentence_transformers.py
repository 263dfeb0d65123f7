"""Folders that sentence-transformers itself saves, read as a tower: the same vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_exports import vectors_of

from scalingnote_jax.config import TowerConfig
from scalingnote_jax.export.exported_tower import ExportedTower
from scalingnote_jax.models.layers.params import flatten
from scalingnote_jax.models.tower import tower_def
from scalingnote_jax.models.weights.beside.completion import complete_tower
from scalingnote_jax.text.contract import tower_tokenizer

torch = pytest.importorskip("torch", reason="the other side of the comparison")
st = pytest.importorskip("sentence_transformers", reason="the other side of the comparison")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "amber", "basin", "cedar", "topic", ":"]
TEXTS = ["Amber BASIN", "cedar topic " * 20, "basin"]


def saved(folder: Path, pooling: str, dense: tuple[int, ...], **transformer: Any) -> None:
    """A BERT of random weights with its modules, saved by the library."""
    from sentence_transformers import SentenceTransformer, models
    from transformers import BertConfig, BertModel, BertTokenizer

    torch.manual_seed(0)
    sizes = {"vocab_size": len(WORDS), "hidden_size": 24, "intermediate_size": 40}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 3, "max_position_embeddings": 20}
    config = BertConfig(initializer_range=0.3, **sizes)
    BertModel(config).save_pretrained(folder / "body")
    tokenizer = BertTokenizer({w: i for i, w in enumerate(WORDS)}, do_lower_case=False)
    tokenizer.save_pretrained(folder / "body")
    modules: list[Any] = [models.Transformer(str(folder / "body"), **transformer)]
    modules.append(models.Pooling(24, pooling_mode=pooling))
    width = 24
    for size in dense:
        identity = torch.nn.Identity()
        modules.append(models.Dense(width, size, bias=False, activation_function=identity))
        width = size
    prompts = {"query": "topic: ", "document": ""}
    model = SentenceTransformer(modules=[*modules, models.Normalize()], prompts=prompts)
    model.save(str(folder / "model"))


@pytest.mark.parametrize(
    ("pooling", "dense", "transformer"),
    [
        ("mean", (), {}),
        ("cls", (9,), {"do_lower_case": True}),
        ("mean", (40, 7), {"max_seq_length": 12, "do_lower_case": True}),
        ("lasttoken", (), {"max_seq_length": 10}),
    ],
)
def test_the_same_vectors(
    pooling: str, dense: tuple[int, ...], transformer: dict[str, Any], tmp_path: Path
) -> None:
    saved(tmp_path, pooling, dense, **transformer)
    ref = str(tmp_path / "model")
    theirs = st.SentenceTransformer(ref)
    for side, encode in (("query", theirs.encode_query), ("doc", theirs.encode_document)):
        cfg, _ = complete_tower(TowerConfig(weights=ref), side, f"teacher.{side}")  # type: ignore[arg-type]
        definition = tower_def(cfg)
        params = flatten(definition.pretrained_params(0))
        tower = ExportedTower("teacher", side, definition, params, tower_tokenizer(cfg))
        texts = TEXTS if side == "query" else [("", text) for text in TEXTS]
        np.testing.assert_allclose(vectors_of(tower, texts), encode(TEXTS), atol=1e-5)
