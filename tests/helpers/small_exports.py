"""Small towers of each family as `scalingnote export` gets them, without a run behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
from small_towers import BERT, DECODER, MODERNBERT, define, random_params

from scalingnote_jax.config import (
    BertShape,
    DecoderShape,
    MeshConfig,
    ModernBertShape,
    RopeScaling,
    TextConfig,
    replace,
)
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.export.exported_tower import ExportedTower
from scalingnote_jax.models.layers.params import flatten, nest
from scalingnote_jax.text.tokenizer import TextTokenizer, load_tokenizer
from scalingnote_jax.vectors.encoder import Encoder, unit_rows

LONG = 14  # tokens at most

_LLAMA = replace(DECODER, vocab_size=110, num_layers=2)
_GEMMA = replace(_LLAMA, gemma=True, window=5, score_dim=20, num_layers=3)
_BERT = replace(BERT, vocab_size=110, num_layers=2, max_positions=20)
SHAPES: dict[str, DecoderShape | BertShape | ModernBertShape] = {
    "llama": _LLAMA,
    "llama, linear": replace(_LLAMA, rope_scaling=RopeScaling("linear", 4.0)),
    "llama, llama3": replace(
        _LLAMA, rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, old_positions=8)
    ),
    "mistral": replace(_LLAMA, window=5),
    "qwen2": replace(_LLAMA, qkv_bias=True),
    "qwen3": replace(_LLAMA, qk_norm=True),
    "gemma2": replace(_GEMMA, global_every=2, score_cap=3.0),
    "gemma3_text": replace(_GEMMA, qk_norm=True, global_every=3, local_rope_theta=20.0),
    "gemma3_text, all local": replace(
        _GEMMA, qk_norm=True, num_layers=2, global_every=6, local_rope_theta=20.0
    ),
    "bert": _BERT,
    "roberta": replace(_BERT, unused_positions=1),
    "modernbert": replace(MODERNBERT, vocab_size=110, num_layers=4),
}


def word_tokenizer(folder: Path) -> TextTokenizer:
    """Words of the tests, with a first and a last special token around every text."""
    from conftest import make_tokenizer
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    path = make_tokenizer(folder) / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    ends = [(t, tokenizer.token_to_id(t)) for t in ("<s>", "</s>")]
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    tokenizer.save(str(path))
    return load_tokenizer(str(path))


def exported_tower(
    shape: DecoderShape | BertShape | ModernBertShape,
    tokenizer: TextTokenizer,
    *,
    role: str = "student",
    side: str = "query",
    prompt: str = "{text}",
    title_tokens: int = 0,
    **changes: Any,
) -> ExportedTower:
    """A tower with random weights of which none is left out unnoticed."""
    text = TextConfig(prompt, LONG, (8, LONG), title_tokens)
    tower = define(shape, text=text, **changes)
    return ExportedTower(role, side, tower, flatten(random_params(tower)), tokenizer)


def vectors_of(tower: ExportedTower, texts: list[Any]) -> np.ndarray:
    """[n, D] unit vectors by the package itself."""
    mesh = make_mesh(MeshConfig(), jax.local_devices()[:1])
    encoder = Encoder(tower.definition, nest(tower.params), tower.tokenizer, mesh, 4)
    return unit_rows(encoder.encode(texts))
