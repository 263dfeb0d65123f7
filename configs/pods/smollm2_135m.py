"""Two SmolLM2-135M towers from the hub; their first four layers as the query tower.

Plan:      scalingnote plan smollm2_135m --topology v5e:4x4   (needs no TPU, no weights)
Launch:    on every host of the slice:
           scalingnote run smollm2_135m --data.path=FOLDER --workdir=SHARED_FOLDER
Hardware:  a TPU slice, or one accelerator with 16 GiB and --train.batch_size=256 --mesh.fsdp=1
Smoke:     scalingnote run smollm2_135m --smoke
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
SMOLLM2_135M = DecoderShape(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    rope_theta=1e5,
    norm_eps=1e-5,
)


def get_config() -> Config:
    """Heads are 9 and 3: the weights are split over `fsdp` only."""
    query = TowerConfig(
        weights="hf:HuggingFaceTB/SmolLM2-135M",
        shape=SMOLLM2_135M,
        pooling="mean",
        text=TextConfig(max_tokens=64, buckets=(32, 64)),
        remat="dots",
        dtype="bfloat16",
    )
    doc_text = TextConfig(prompt="{title}\n{text}", max_tokens=256, buckets=(128, 256))
    return Config(
        name="smollm2_135m",
        data=DataConfig(source="beir"),
        teacher=TowersConfig(query=query, doc=replace(query, text=doc_text)),
        train=TrainConfig(
            duration="2 epochs", batch_size=1024, optim=OptimConfig(learning_rate=5e-5)
        ),
        distill=DistillConfig(
            student=replace(query, num_layers=4, remat="none"),
            queries=("train", "unlabelled", "titles", "sentences"),
            duration="10 epochs",
            batch_size=1024,
            optim=OptimConfig(learning_rate=3e-4),
        ),
        mesh=MeshConfig(data=-1, fsdp=8),
    )
