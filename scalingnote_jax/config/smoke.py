"""`--smoke`: any config at a size that runs in a minute on two cores, to see that all its steps go
through before a pod is booked.

Architectures, settings of the steps and LoRA stay; sizes, lengths and durations shrink, weights are
random, and the texts are docstrings of one installed package. Not for looking at metrics.
"""

from __future__ import annotations

from scalingnote_jax.config import (
    BertShape,
    Config,
    DataConfig,
    DecoderShape,
    MeshConfig,
    ModernBertShape,
    RefineConfig,
    TowerConfig,
    replace,
)
from scalingnote_jax.config.forms.prompt import own_words

BATCH, STEPS, TOKENS, DIM = 16, "20 steps", 48, 32


def shrunk(config: Config) -> Config:
    """The small form of `config`."""
    train, distill, teacher = config.train, config.distill, config.teacher
    return replace(
        config,
        name=f"{config.name}-smoke",
        data=DataConfig(source="pydocs", packages=("numpy",), max_documents=300),
        teacher=replace(teacher, query=_tower(teacher.query), doc=_tower(teacher.doc)),
        train=replace(
            train,
            duration=train.duration and STEPS,
            batch_size=BATCH,
            encode_chunks=min(train.encode_chunks, 2),
            accumulate=min(train.accumulate, 2),
            mixture_weights=(),
            matryoshka=_sizes(train.matryoshka),
            single_collection_batches=False,
        ),
        mine=replace(config.mine, min_found=0.0),  # towers of 20 steps rank as they please
        distill=replace(
            distill,
            student=_student(distill.student),
            duration=distill.duration and STEPS,
            batch_size=BATCH,
            accumulate=min(distill.accumulate, 2),
            matryoshka=_sizes(distill.matryoshka),
        ),
        refine=_refine(config.refine),
        encode=replace(config.encode, dim=min(config.encode.dim, DIM)),
        # Runs of other systems are over the texts of the whole config
        eval=replace(config.eval, latency_queries=10, runs=()),
        mesh=MeshConfig(),
    )


def _refine(cfg: RefineConfig) -> RefineConfig:
    if not cfg.duration:
        return cfg
    return replace(cfg, duration=STEPS, batch_size=BATCH, accumulate=min(cfg.accumulate, 2))


def _sizes(matryoshka: tuple[int, ...]) -> tuple[int, ...]:
    return (DIM // 2, DIM) if matryoshka else ()


def _tower(cfg: TowerConfig) -> TowerConfig:
    tokens = TOKENS + len(own_words(cfg.text.prompt).encode())  # a byte each; the prompt is extra
    return replace(
        cfg,
        weights="random",
        shape=_shape(cfg.shape or DecoderShape()),
        body_only=False,
        tokenizer="bytes",
        num_layers=min(cfg.num_layers, 0),  # all of a small shape, or none as before
        projection=DIM,
        text=replace(cfg.text, max_tokens=tokens, buckets=(tokens,)),
        dtype="float32",  # CPUs are slow in the other
    )


def _student(cfg: TowerConfig) -> TowerConfig:
    small = _tower(cfg)
    return replace(small, num_layers=small.num_layers or 1)


def _shape(
    shape: DecoderShape | BertShape | ModernBertShape,
) -> DecoderShape | BertShape | ModernBertShape:
    """The same architecture with the sizes of the default one."""
    if isinstance(shape, BertShape):
        return replace(BertShape(), norm_eps=shape.norm_eps)
    if isinstance(shape, ModernBertShape):  # its second layer sees a window
        return replace(ModernBertShape(), reach=min(shape.reach, TOKENS // 4))
    small = DecoderShape()
    return replace(
        shape,
        vocab_size=small.vocab_size,
        hidden_size=small.hidden_size,
        intermediate_size=small.intermediate_size,
        num_layers=max(small.num_layers, shape.global_every),  # a global layer among them
        num_heads=small.num_heads,
        num_kv_heads=small.num_kv_heads,
        head_dim=small.head_dim,
        window=min(shape.window, TOKENS // 2),
    )
