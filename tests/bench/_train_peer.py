"""sentence-transformers' side of the training bench, in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import common
from _train_common import BATCH, MATMUL, RATE, SCALE, SHOWN, Meter, pairs_of


def peer(model: common.Result, turns: common.Turns) -> None:
    """Its trainer as it is, with a callback that hands over at the end of a turn."""
    import torch
    from transformers import TrainerCallback

    class AtTurns(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            meter.step()
            if state.global_step == 1:
                turns.hand_over(emb=emb, loss=loss)
                meter.start()
            elif (state.global_step - 1) % steps == 0:
                meter.stop()

    steps = model["turn"] if model["order"] == "ours" else model["steps"]
    tower = peer_tower(model)
    trainer = peer_trainer(model, tower)
    trainer.add_callback(AtTurns())
    pairs = trainer.train_dataset
    with torch.no_grad():
        emb = tower.encode(pairs["positive"][:SHOWN]).tolist()
        batch = trainer.data_collator([pairs[i] for i in range(BATCH)])
        loss = float(trainer.compute_loss(tower, batch))
    body = [p.numel() for name, p in tower.named_parameters() if ".embed" not in name]
    square = torch.ones(MATMUL, MATMUL)
    meter = Meter(turns, sum(body), lambda: square @ square)
    preprocess = trainer.data_collator.preprocess_fn

    def counted(*args: Any, **kwargs: Any) -> Any:
        features = preprocess(*args, **kwargs)
        meter.tokens(features["attention_mask"])
        return features

    trainer.data_collator.preprocess_fn = counted
    meter.start()
    trainer.train()


def peer_tower(model: common.Result) -> Any:
    """The same tower. No dropout, as ours has none: it would cost time, and other losses."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    body = Transformer(model["peer_weights"], max_seq_length=model["tokens"])
    pooling = Pooling(body.get_embedding_dimension(), "mean")
    tower = SentenceTransformer(modules=[body, pooling, Normalize()], device="cpu")
    for module in tower.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return tower


def peer_trainer(model: common.Result, tower: Any) -> Any:
    """Its trainer on the pairs, at random or in the order of our batches."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from torch.utils.data import SequentialSampler

    def in_order(dataset: Any, **kwargs: Any) -> Any:
        return DefaultBatchSampler(SequentialSampler(dataset), **kwargs)

    order = {"batch_sampler": in_order} if model["order"] == "ours" else {}
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(Path(model["folder"]) / "peer"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1000,  # the parent ends it
        learning_rate=RATE,
        weight_decay=0.01,  # AdamW, clipping at 1.0: its defaults, as ours
        lr_scheduler_type="constant",
        use_cpu=True,
        bf16=model["bf16"],
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **order,
    )
    return SentenceTransformerTrainer(
        model=tower,
        args=arguments,
        train_dataset=Dataset.from_dict(pairs_of(model)),
        loss=MultipleNegativesRankingLoss(tower, scale=SCALE),
    )


if __name__ == "__main__":
    given = common.task()
    assert given is not None, "run train.py"
    peer(given, common.Turns())
