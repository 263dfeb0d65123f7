"""Two Qwen3-Embedding-0.6B towers, trained on from where Qwen left them; the first four layers of
the same model as the query tower.

Plan:      scalingnote plan qwen3_0_6b --topology v5e:4x4     (needs no TPU, no weights)
Launch:    on every host of the slice:
           scalingnote run qwen3_0_6b --data.path=FOLDER --workdir=SHARED_FOLDER
Hardware:  a TPU slice, or one accelerator with --train.batch_size=… and --train.encode_chunks=…
Smoke:     scalingnote run qwen3_0_6b --smoke
"""

from scalingnote_jax.config import (
    Config,
    DataConfig,
    DecoderShape,
    DistillConfig,
    MeshConfig,
    OptimConfig,
    TextConfig,
    TowerConfig,
    TowersConfig,
    TrainConfig,
    replace,
)

# Given, so that a job can be planned where the weights are not.
QWEN3_EMBEDDING_0_6B = DecoderShape(
    vocab_size=151669,
    hidden_size=1024,
    intermediate_size=3072,
    num_layers=28,
    num_heads=16,
    num_kv_heads=8,
    head_dim=128,
    rope_theta=1e6,
    norm_eps=1e-6,
    qk_norm=True,
)
TASK = "Given a web search query, retrieve relevant passages that answer the query"


def get_config() -> Config:
    """As the model was trained: last token, instruction before the query, none before documents."""
    query = TowerConfig(
        weights="hf:Qwen/Qwen3-Embedding-0.6B",
        shape=QWEN3_EMBEDDING_0_6B,
        pooling="last",
        text=TextConfig(f"Instruct: {TASK}\nQuery:{{text}}", max_tokens=64, buckets=(32, 64)),
        remat="full",
        dtype="bfloat16",
    )
    doc_text = TextConfig("{title}\n{text}", max_tokens=256, buckets=(128, 256))
    return Config(
        name="qwen3_0_6b",
        data=DataConfig(source="beir"),
        teacher=TowersConfig(query=query, doc=replace(query, text=doc_text)),
        train=TrainConfig(
            duration="1 epochs", batch_size=2048, optim=OptimConfig(learning_rate=1e-5)
        ),
        distill=DistillConfig(
            student=replace(query, num_layers=4, remat="none"),
            queries=("train", "unlabelled", "titles", "sentences"),
            duration="10 epochs",
            batch_size=2048,
            optim=OptimConfig(learning_rate=3e-4),
        ),
        mesh=MeshConfig(data=-1, fsdp=8),
    )
