"""The paper's main setting: two Qwen2.5-7B towers with weights of their own, then the first four
layers of a BERT as the query tower.

Plan:      scalingnote plan qwen2_5_7b --topology v5e:16x16    (needs no TPU, no weights)
Launch:    on every host of the slice:
           scalingnote run qwen2_5_7b --data.path=FOLDER --workdir=SHARED_FOLDER
Hardware:  a TPU slice over which float32 masters and moments of 14 billion weights (170 GB) fit
LoRA:      add --teacher.query.lora.rank=16 --teacher.doc.lora.rank=16
           --teacher.query.lora.base_dtype=bfloat16 --teacher.doc.lora.base_dtype=bfloat16
           --train.optim.learning_rate=1e-4: frozen bases of 28 GB in all, moments of adapters only;
           v5e:4x4 plans at 6.3 of 15.75 GiB a chip with --train.batch_size=256 --mesh.fsdp=16
QLoRA:     the same with int8 in place of both bfloat16: the same plan needs 5.3 GiB a chip (1.1
           of weights) and sends codes, not floats, 23 GiB a step; nf4 (4 bits) sends 12, but needs
           9.2 GiB (1.0 of weights): its table lookup has large temporaries
Smoke:     scalingnote run qwen2_5_7b --smoke       (tiny, a minute on two cores)
"""

from scalingnote_jax.config import (
    BertShape,
    Config,
    DataConfig,
    DecoderShape,
    DistillConfig,
    EncodeConfig,
    MeshConfig,
    OptimConfig,
    TextConfig,
    TowerConfig,
    TowersConfig,
    TrainConfig,
    replace,
)

# Given, so that a job can be planned where the weights are not.
QWEN2_5_7B = DecoderShape(
    vocab_size=152064,
    hidden_size=3584,
    intermediate_size=18944,
    num_layers=28,
    num_heads=28,
    num_kv_heads=4,
    head_dim=128,
    rope_theta=1e6,
    norm_eps=1e-6,
    qkv_bias=True,
)
BERT_BASE = BertShape(
    vocab_size=30522,
    hidden_size=768,
    intermediate_size=3072,
    num_layers=12,
    num_heads=12,
    max_positions=512,
)


def get_config() -> Config:
    """64 query tokens, 256 document tokens, 4,096 pairs a step, weights split over all chips."""
    query = TowerConfig(
        weights="hf:Qwen/Qwen2.5-7B",
        shape=QWEN2_5_7B,
        pooling="mean",  # the paper's prompts avoid that one token must hold a document; ours
        projection=1024,  # the paper compresses D and gives no number; ours
        text=TextConfig(max_tokens=64, buckets=(32, 64)),
        remat="full",
        dtype="bfloat16",
    )
    doc_text = TextConfig(prompt="{title}\n{text}", max_tokens=256, buckets=(128, 256))
    return Config(
        name="qwen2_5_7b",
        data=DataConfig(source="beir"),
        teacher=TowersConfig(query=query, doc=replace(query, text=doc_text)),
        train=TrainConfig(
            duration="1 epochs", batch_size=4096, optim=OptimConfig(learning_rate=1e-5)
        ),
        distill=DistillConfig(
            student=TowerConfig(
                weights="hf:google-bert/bert-base-uncased",
                shape=BERT_BASE,
                num_layers=4,
                projection=1024,
                text=query.text,
                dtype="bfloat16",
            ),
            queries=("train", "unlabelled", "titles", "sentences"),
            duration="10 epochs",
            batch_size=4096,
            optim=OptimConfig(learning_rate=3e-4),
        ),
        # 3,584 / 32 is a multiple of 16: with more parts XLA:TPU adds whole gradients up on every
        # chip instead of handing each its part, which doubles what a step sends.
        mesh=MeshConfig(data=-1, fsdp=32),
        encode=EncodeConfig(batch_size=8192),
    )
