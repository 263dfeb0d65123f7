"""Which tensor of a pretrained model becomes which of our parameters, for each architecture.

Names are those of `transformers`, without the prefix of the body; "{i}" is the layer. A linear
weight is stored there as [out, in] and here as [*in, *out].
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import numpy as np

from scalingnote_jax.config import BertShape, DecoderShape


@dataclass(frozen=True)
class Stored:
    """How one parameter is stored.

    Attributes:
        name: of the tensor.
        inputs: how many of our leading axes are its input; 0 for biases and norms.
        table: it is looked up in, and stored as it is here.
        less_one: what is stored is our scale of a norm less one.
    """

    name: str
    inputs: int = 0
    table: bool = False
    less_one: bool = False

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the tensor, for our parameter (of one layer) of `shape`."""
        if self.table:
            return shape
        fan_out = math.prod(shape[self.inputs :])
        return (fan_out, math.prod(shape[: self.inputs])) if self.inputs else (fan_out,)

    def convert(self, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The tensor as our parameter."""
        ours = (tensor.T if self.inputs else tensor).reshape(shape)
        return ours.astype(np.float32) + 1 if self.less_one else ours


@dataclass(frozen=True)
class Layout:
    """Our parameter paths → tensors, and the tensors that a tower has no use for."""

    stored: dict[str, Stored]
    unused: re.Pattern[str]

    def expected(self, num_layers: int) -> set[str]:
        """The names of all tensors of a model of `num_layers` layers."""
        return {s.name.format(i=i) for s in self.stored.values() for i in range(num_layers)}


_LAYER = "encoder.layer.{i}."
_SELF = _LAYER + "attention.self."
_ATTENDED = _LAYER + "attention.output."

DECODER = Layout(
    stored={
        "embedding/table": Stored("embed_tokens.weight", table=True),
        "layers/attention_norm": Stored("layers.{i}.input_layernorm.weight"),
        "layers/q": Stored("layers.{i}.self_attn.q_proj.weight", inputs=1),
        "layers/k": Stored("layers.{i}.self_attn.k_proj.weight", inputs=1),
        "layers/v": Stored("layers.{i}.self_attn.v_proj.weight", inputs=1),
        "layers/o": Stored("layers.{i}.self_attn.o_proj.weight", inputs=2),
        "layers/mlp_norm": Stored("layers.{i}.post_attention_layernorm.weight"),
        "layers/gate": Stored("layers.{i}.mlp.gate_proj.weight", inputs=1),
        "layers/up": Stored("layers.{i}.mlp.up_proj.weight", inputs=1),
        "layers/down": Stored("layers.{i}.mlp.down_proj.weight", inputs=1),
        "final_norm": Stored("norm.weight"),
    },
    # The head, and frequencies that old versions saved though they follow from the config.
    unused=re.compile(r"lm_head\.weight|(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"),
)

BERT = Layout(
    stored={
        "embedding/table": Stored("embeddings.word_embeddings.weight", table=True),
        "embedding/positions": Stored("embeddings.position_embeddings.weight", table=True),
        "embedding/types": Stored("embeddings.token_type_embeddings.weight", table=True),
        "embedding/norm": Stored("embeddings.LayerNorm.weight"),
        "embedding/norm_bias": Stored("embeddings.LayerNorm.bias"),
        "layers/q": Stored(_SELF + "query.weight", inputs=1),
        "layers/q_bias": Stored(_SELF + "query.bias"),
        "layers/k": Stored(_SELF + "key.weight", inputs=1),
        "layers/k_bias": Stored(_SELF + "key.bias"),
        "layers/v": Stored(_SELF + "value.weight", inputs=1),
        "layers/v_bias": Stored(_SELF + "value.bias"),
        "layers/o": Stored(_ATTENDED + "dense.weight", inputs=2),
        "layers/o_bias": Stored(_ATTENDED + "dense.bias"),
        "layers/attention_norm": Stored(_ATTENDED + "LayerNorm.weight"),
        "layers/attention_norm_bias": Stored(_ATTENDED + "LayerNorm.bias"),
        "layers/up": Stored(_LAYER + "intermediate.dense.weight", inputs=1),
        "layers/up_bias": Stored(_LAYER + "intermediate.dense.bias"),
        "layers/down": Stored(_LAYER + "output.dense.weight", inputs=1),
        "layers/down_bias": Stored(_LAYER + "output.dense.bias"),
        "layers/mlp_norm": Stored(_LAYER + "output.LayerNorm.weight"),
        "layers/mlp_norm_bias": Stored(_LAYER + "output.LayerNorm.bias"),
    },
    # The pooler and the heads of pre-training, and position numbers that old versions saved.
    unused=re.compile(r"pooler\..*|cls\..*|embeddings\.position_ids"),
)

_QKV_BIASES = {f"layers/{x}_bias": Stored(f"layers.{{i}}.self_attn.{x}_proj.bias") for x in "qkv"}


_QK_NORMS = {f"layers/{x}_norm": Stored(f"layers.{{i}}.self_attn.{x}_norm.weight") for x in "qk"}
_SANDWICH = {
    "layers/attention_out_norm": Stored("layers.{i}.post_attention_layernorm.weight"),
    "layers/mlp_norm": Stored("layers.{i}.pre_feedforward_layernorm.weight"),
    "layers/mlp_out_norm": Stored("layers.{i}.post_feedforward_layernorm.weight"),
}


def layout_of(shape: DecoderShape | BertShape) -> Layout:
    """The layout of a body of `shape`."""
    if isinstance(shape, BertShape):
        return BERT
    stored = DECODER.stored | (_QKV_BIASES if shape.qkv_bias else {})
    stored |= _QK_NORMS if shape.qk_norm else {}
    if shape.gemma:
        stored |= _SANDWICH
        norms = {path: s for path, s in stored.items() if path.endswith("norm")}
        stored |= {path: replace(s, less_one=True) for path, s in norms.items()}
    return replace(DECODER, stored=stored)
