"""Which tensor of a pretrained model becomes which of our parameters, for each architecture.

Names are those of `transformers`, without the prefix of the body; "{i}" is the layer. A linear
weight is stored there as [out, in] and here as [*in, *out].
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from scalingnote_jax.config import BertShape, DecoderShape, ModernBertShape

Ranges: TypeAlias = tuple[tuple[int, int], ...]  # from, up to: one for each axis


@dataclass(frozen=True)
class Stored:
    """How one parameter is stored.

    Attributes:
        name: of the tensor.
        inputs: how many of our leading axes are its input; 0 for biases and norms.
        table: it is looked up in, and stored as it is here.
        skip: rows of the stored tensor before the first of ours.
        less_one: what is stored is our scale of a norm less one.
        part: which of how many equal parts of the tensor's rows it is.
        first: layers before this one have no such tensor, and no use for ours: it is ones.
    """

    name: str
    inputs: int = 0
    table: bool = False
    skip: int = 0
    less_one: bool = False
    part: tuple[int, int] = (0, 1)
    first: int = 0

    @property
    def stacked(self) -> bool:
        """Whether each layer has a tensor of its own."""
        return "{i}" in self.name

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the tensor, for our parameter (of one layer) of `shape`."""
        if self.table:
            return (shape[0] + self.skip, *shape[1:])
        fan_out = math.prod(shape[self.inputs :]) * self.part[1]
        return (fan_out, math.prod(shape[: self.inputs])) if self.inputs else (fan_out,)

    def stored_index(self, ranges: Ranges, shape: tuple[int, ...]) -> tuple[slice, ...]:
        """Where the part of our parameter (of one layer, of `shape`) in `ranges` is stored.

        Axes that are stored as one ([H, K] as H·K) can be cut along the first of them only.
        """
        if self.table:
            first, *rest = ranges
            return (slice(first[0] + self.skip, first[1] + self.skip), *(slice(*r) for r in rest))
        outs = _joined(ranges[self.inputs :], shape[self.inputs :])
        before = self.part[0] * math.prod(shape[self.inputs :])
        outs = slice(outs.start + before, outs.stop + before)
        ins = _joined(ranges[: self.inputs], shape[: self.inputs]) if self.inputs else None
        return (outs, ins) if ins else (outs,)

    def convert(self, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """What is stored at some `stored_index`, as that part of our parameter, of `shape`."""
        ours = (tensor.T if self.inputs else tensor).reshape(shape)
        return ours.astype(np.float32) + 1 if self.less_one else ours

    def revert(self, ours: np.ndarray) -> np.ndarray:
        """The inverse of `convert`: rows that it skipped are zeros, and where it takes a part of a
        tensor, that part.
        """
        if self.less_one:
            ours = ours - 1
        if self.table:
            return np.pad(ours, [(self.skip, 0)] + [(0, 0)] * (ours.ndim - 1))
        fan_in = math.prod(ours.shape[: self.inputs])
        return ours.reshape(fan_in, -1).T if self.inputs else ours.ravel()


def _joined(ranges: Ranges, sizes: tuple[int, ...]) -> slice:
    assert all(r == (0, n) for r, n in zip(ranges[1:], sizes[1:], strict=True)), (ranges, sizes)
    inner = math.prod(sizes[1:])
    return slice(ranges[0][0] * inner, ranges[0][1] * inner)


@dataclass(frozen=True)
class Layout:
    """Our parameter paths → tensors, and the tensors that a tower has no use for."""

    stored: dict[str, Stored]
    unused: re.Pattern[str]

    def expected(self, num_layers: int) -> set[str]:
        """The names of all tensors of a model of `num_layers` layers."""
        return {
            s.name.format(i=i) for s in self.stored.values() for i in range(s.first, num_layers)
        }


_TABLE = "embedding/table"
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
    # The head, what sees images, and frequencies that old versions saved though they follow from
    # the config.
    unused=re.compile(
        r"lm_head\.weight|(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"
        r"|vision_tower\..*|multi_modal_projector\..*"
    ),
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
    unused=re.compile(r"pooler\..*|cls\..*|lm_head\..*|embeddings\.position_ids"),
)

# The first of the two halves of Wi goes through the activation.
MODERNBERT = Layout(
    stored={
        "embedding/table": Stored("embeddings.tok_embeddings.weight", table=True),
        "embedding/norm": Stored("embeddings.norm.weight"),
        "layers/attention_norm": Stored("layers.{i}.attn_norm.weight", first=1),
        "layers/q": Stored("layers.{i}.attn.Wqkv.weight", inputs=1, part=(0, 3)),
        "layers/k": Stored("layers.{i}.attn.Wqkv.weight", inputs=1, part=(1, 3)),
        "layers/v": Stored("layers.{i}.attn.Wqkv.weight", inputs=1, part=(2, 3)),
        "layers/o": Stored("layers.{i}.attn.Wo.weight", inputs=2),
        "layers/mlp_norm": Stored("layers.{i}.mlp_norm.weight"),
        "layers/gate": Stored("layers.{i}.mlp.Wi.weight", inputs=1, part=(0, 2)),
        "layers/up": Stored("layers.{i}.mlp.Wi.weight", inputs=1, part=(1, 2)),
        "layers/down": Stored("layers.{i}.mlp.Wo.weight", inputs=1),
        "final_norm": Stored("final_norm.weight"),
    },
    # The heads of pre-training and of classifiers.
    unused=re.compile(r"(head|decoder|classifier)\..*"),
)

_QKV_BIASES = {f"layers/{x}_bias": Stored(f"layers.{{i}}.self_attn.{x}_proj.bias") for x in "qkv"}
_QK_NORMS = {f"layers/{x}_norm": Stored(f"layers.{{i}}.self_attn.{x}_norm.weight") for x in "qk"}
_SANDWICH = {
    "layers/attention_out_norm": Stored("layers.{i}.post_attention_layernorm.weight"),
    "layers/mlp_norm": Stored("layers.{i}.pre_feedforward_layernorm.weight"),
    "layers/mlp_out_norm": Stored("layers.{i}.post_feedforward_layernorm.weight"),
}


def layout_of(shape: DecoderShape | BertShape | ModernBertShape) -> Layout:
    """The layout of a body of `shape`."""
    if isinstance(shape, BertShape):
        path = "embedding/positions"
        positions = replace(BERT.stored[path], skip=shape.unused_positions)
        return replace(BERT, stored=BERT.stored | {path: positions})
    if isinstance(shape, ModernBertShape):
        return MODERNBERT
    if not shape.num_layers:
        return replace(DECODER, stored={_TABLE: DECODER.stored[_TABLE]})
    stored = DECODER.stored | (_QKV_BIASES if shape.qkv_bias else {})
    stored |= _QK_NORMS if shape.qk_norm else {}
    if shape.gemma:
        stored |= _SANDWICH
        norms = {path: s for path, s in stored.items() if path.endswith("norm")}
        stored |= {path: replace(s, less_one=True) for path, s in norms.items()}
    return replace(DECODER, stored=stored)
