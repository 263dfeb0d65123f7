"""What comes after training: vectors, index, evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from scalingnote_jax.config.limits import (
    Count,
    CountOrZero,
    Metric,
    Name,
    PositiveShare,
    Range,
    Share,
)
from scalingnote_jax.config.training import QueryNoise

SystemName = Literal["bm25", "untrained", "teacher", "student", "student_int8", "refined", "hybrid"]
CorpusChange = Literal["foreign_documents", "shuffled_documents", "near_duplicates"]
Disturbance = Literal[QueryNoise, CorpusChange, "unseen_queries"]


@dataclass(frozen=True)
class EncodeConfig:
    """Turning texts into vectors once training is over."""

    # Document vectors that others have made, taken in instead of encoding: an .npy file or a folder
    # of them with ids beside, Parquet with `id` and `vector`, a FAISS index (docs/bring.md)
    vectors: str = ""
    # Texts of max_tokens at once; of shorter ones as many more as have no more tokens. 0: 16 on a
    # CPU, else 64, of which a large slice wants a multiple
    batch_size: CountOrZero = 0
    shard_rows: Count = 100_000  # rows per .npy file of the vector store
    # Vectors for search are cut to this many of their D components, the first; 0: all
    dim: CountOrZero = 0
    # Of the vectors on disk; what the smaller ones lose is said and in the store's manifest
    store_dtype: Literal["float32", "bfloat16", "int8"] = "float32"


@dataclass(frozen=True)
class IndexConfig:
    """The index. The two limits are the rule of thumb of ScaNN's documentation (docs/search.md)."""

    # "scann": in this process. "exact": every vector is scored, with no library. "milvus": at `uri`
    engine: Literal["scann", "exact", "milvus"] = "scann"
    # Of Milvus: a file of Milvus Lite, or a server's URL; "": a file in the index's folder
    uri: str = ""
    exact_below: CountOrZero = 20_000  # fewer vectors: brute force
    # More vectors: a tree of sqrt(n) leaves in front of the hashes
    partition_above: CountOrZero = 100_000
    # Least recall against exact search, of the best 10 and of the best eval.depth: the fastest
    # setting that surely reaches it is taken. 0: the two below are taken as they are
    target_recall: Share = 0.95
    # With target_recall=0: candidates scored again with the exact vectors in a search for 10; in
    # proportion in a deeper one
    reorder: Count = 200
    # With target_recall=0: share of the leaves that are searched
    search_percent: Annotated[float, Range(0, 100, above=True)] = 10.0
    tuning_queries: Count = 1000  # held out for tuning, at most
    tuning_builds: Count = 2  # hashing and SOAR variants that tuning builds (`tuning.VARIANTS`)
    # Vectors that ScaNN gets at once; of more, several parts are built one after another. 0: all
    max_shard_rows: CountOrZero = 0


@dataclass(frozen=True)
class ExactConfig:
    """The search that scores every document. The defaults are exact; other values of the first two
    are compared with that, and the differences said.
    """

    # Of the vectors on the devices; int8 has a scale for each vector
    storage: Literal["float32", "bfloat16", "int8"] = "float32"
    # Below 1: each block's best are chosen by approx_max_k, which is faster on a TPU only
    recall_target: PositiveShare = 1.0
    block_rows: Count = 8192  # documents scored at once on a device
    query_block: Count = 256  # queries scored at once
    # Documents on a device at a time; more come one load after another
    device_rows: Count = 131_072


@dataclass(frozen=True)
class EvalConfig:
    """The offline evaluation."""

    split: Name = "test"  # whose queries are asked: train, dev, test, or one of data.more_splits
    # What is compared. "student_int8": the student with linear weights in int8, on the same index.
    # With stage 3, "refined" stands beside "student", and in int8 is what is shipped, the refined
    # one. "hybrid": what is shipped and BM25, their rankings fused as suits the dev queries best
    systems: tuple[SystemName, ...] = ("bm25", "untrained", "teacher", "student")
    # The first one stands first in tables and plots
    metrics: tuple[Metric, ...] = ("Recall@10", "Recall@50", "Recall@100", "nDCG@10", "MRR@10")
    depth: Count = 100  # documents kept per query, in the runs and the metrics
    latency_queries: Count = 200  # single queries timed for query_ms_p50 and query_ms_p99
    # Least grade that counts as relevant, for all metrics but nDCG, which takes the grades as they
    # are; 2 for the passages of TREC DL
    relevant_from: Count = 1
    # Leaves the document that has a query's own id out of what is found for it, as BEIR does for
    # ArguAna and Quora
    leave_out_own_id: bool = False
    # Disturbances whose cost is measured, each a curve (docs/robustness.md); (): none
    robustness: tuple[Disturbance, ...] = ()
    robustness_strengths: tuple[Share, ...] = (0.1, 0.3, 0.5)  # of 1, beside the undisturbed point
    robustness_documents: str = ""  # BEIR folder whose documents "foreign_documents" mixes in
    # Further collections that the towers are tested on as they are (docs/evaluation.md): folders in
    # BEIR layout, each a path or NAME=path
    collections: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()  # TREC run files of other systems over this corpus: a row each
    exact: ExactConfig = field(default_factory=ExactConfig)  # how all documents are scored
