"""Two Gemma-3-270M towers; their first six layers, one of them global, as the query tower.

Plan:      scalingnote plan gemma3_270m --topology v5e:4x4    (needs no TPU, no weights)
Launch:    accept the licence on the hub and `hf auth login`, then on every host of the slice:
           scalingnote run gemma3_270m --data.path=FOLDER --workdir=SHARED_FOLDER
Hardware:  a TPU slice, or one accelerator with 16 GiB and --train.batch_size=256 --mesh.fsdp=1
Smoke:     scalingnote run gemma3_270m --smoke
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
GEMMA_3_270M = DecoderShape(
    vocab_size=262144,
    hidden_size=640,
    intermediate_size=2048,
    num_layers=18,
    num_heads=4,
    num_kv_heads=1,
    head_dim=256,
    rope_theta=1e6,
    norm_eps=1e-6,
    qk_norm=True,
    window=512,
    global_every=6,
    local_rope_theta=1e4,
    gemma=True,
    score_dim=256,
)


def get_config() -> Config:
    """The token table is five eighths of the model: it stays as it is."""
    query = TowerConfig(
        weights="hf:google/gemma-3-270m",
        shape=GEMMA_3_270M,
        pooling="mean",
        text=TextConfig(max_tokens=64, buckets=(32, 64)),
        remat="dots",
        dtype="bfloat16",
        freeze=("embedding",),
    )
    doc_text = TextConfig(prompt="{title}\n{text}", max_tokens=256, buckets=(128, 256))
    return Config(
        name="gemma3_270m",
        data=DataConfig(source="beir"),
        teacher=TowersConfig(query=query, doc=replace(query, text=doc_text)),
        train=TrainConfig(
            duration="2 epochs", batch_size=1024, optim=OptimConfig(learning_rate=3e-5)
        ),
        distill=DistillConfig(
            student=replace(query, num_layers=6, remat="none"),
            queries=("train", "unlabelled", "titles", "sentences"),
            duration="10 epochs",
            batch_size=1024,
            optim=OptimConfig(learning_rate=3e-4),
        ),
        mesh=MeshConfig(data=-1, fsdp=8),
    )
