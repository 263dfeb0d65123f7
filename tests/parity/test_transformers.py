"""Each family of models, with random weights, against `transformers` on the very same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import transformers
from flax import nnx

from scalingnote_jax.config import TextConfig, TowerConfig
from scalingnote_jax.models.bodies import make_body
from scalingnote_jax.models.layers.params import blueprint
from scalingnote_jax.models.tower import tower_def

torch = pytest.importorskip("torch", reason="the other side of the comparison")

SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,  # not hidden_size / heads: families differ in whether they say it
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "attn_implementation": "eager",
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
GEMMA = {"query_pre_attn_scalar": 20, "sliding_window": 5}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 500.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
}
# Model type, number of layers, what is special, and how the weights are stored.
CASES = {
    "llama": ("llama", 2, {}, {}),
    "llama-3": ("llama", 2, {"rope_parameters": LLAMA3}, {}),
    "llama-linear": (
        "llama",
        2,
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
        {},
    ),
    "mistral": ("mistral", 2, {"sliding_window": 5}, {}),
    "qwen2-shards": ("qwen2", 3, {"head_dim": 8}, {"max_shard_size": "20KB"}),
    "qwen3-bfloat16": ("qwen3", 2, {}, {"dtype": "bfloat16"}),
    "gemma2": ("gemma2", 3, GEMMA | {"attn_logit_softcapping": 3.0}, {}),
    "gemma3": ("gemma3_text", 7, GEMMA | {"rope_parameters": GEMMA3_ROPE}, {}),
    "qwen2-bidirectional": ("qwen2", 2, {"head_dim": 8, "is_causal": False}, {}),
    "gemma3-bidirectional": (
        "gemma3_text",
        7,
        GEMMA | {"rope_parameters": GEMMA3_ROPE, "use_bidirectional_attention": True},
        {},
    ),
    "bert": ("bert", 2, {}, {}),
    "xlm-roberta": ("xlm-roberta", 2, {"type_vocab_size": 1}, {}),
    "modernbert": (
        "modernbert",
        5,
        {
            "head_dim": 8,
            "pad_token_id": 1,
            "local_attention": 7,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 500.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
            },
        },
        {},
    ),
}


def random_model(kind: str, layers: int, special: dict[str, Any], dtype: str) -> Any:
    """A model of the other library whose every weight matters."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **SIZES | special, num_hidden_layers=layers)
    model = transformers.AutoModel.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model.to(getattr(torch, dtype))


@pytest.mark.parametrize("case", CASES)
def test_hidden_states(case: str, tmp_path: Path) -> None:
    kind, layers, special, how = CASES[case]
    dtype = how.get("dtype", "float32")
    size = {k: v for k, v in how.items() if k == "max_shard_size"}
    random_model(kind, layers, special, dtype).save_pretrained(tmp_path, **size)
    assert (tmp_path / "model.safetensors.index.json").is_file() == bool(size)
    # Read again: a model cast to bfloat16 in memory has lost bits of its rotary frequencies too.
    theirs = transformers.AutoModel.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    )
    text = TextConfig(max_tokens=16, buckets=(16,))
    both_sides = "bidirectional" in case
    tower = tower_def(TowerConfig(weights=str(tmp_path), text=text, bidirectional=both_sides))
    params = tower.pretrained_params(0)["body"]
    how = {"remat": "none", "dtype": "float32", "bidirectional": both_sides}
    graphdef, _, _ = blueprint(lambda: make_body(tower.shape, rngs=nnx.Rngs(0), **how))

    @jax.jit
    def forward(params: Any, tokens: Any, mask: Any) -> jax.Array:
        body: Any = nnx.merge(graphdef, params)
        return body(tokens, mask)

    mask = np.arange(16) < np.array([16, 9, 1])[:, None]
    # No id of padding in a text: RoBERTa takes its positions from ids.
    tokens = np.where(mask, np.random.default_rng(0).integers(2, 60, mask.shape), 1)
    with torch.no_grad():
        hidden = theirs(
            input_ids=torch.tensor(tokens), attention_mask=torch.tensor(mask)
        ).last_hidden_state.numpy()
    given = np.asarray(forward(params, tokens.astype(np.int32), mask))
    np.testing.assert_allclose(given[mask], hidden[mask], atol=1e-4)
    assert np.abs(hidden[mask]).mean() > 0.1
