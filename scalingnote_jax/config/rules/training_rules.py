"""Rules over several fields of the three stages, of mining and of the mesh.

What depends on the number of devices or examples is checked where they are known.
"""

from __future__ import annotations

import dataclasses

from scalingnote_jax.config import (
    Config,
    DecoderShape,
    DistillConfig,
    MineConfig,
    RefineConfig,
    TrainConfig,
)
from scalingnote_jax.config.forms.prompt import title_is_first
from scalingnote_jax.config.rules.tower_rules import known_dim
from scalingnote_jax.config.towers import NO_LAYERS
from scalingnote_jax.errors import bad_input


def _check_mesh(config: Config) -> None:
    sizes = dataclasses.asdict(config.mesh)
    if list(sizes.values()).count(-1) > 1:
        expected = "sizes ≥ 1, at most one of them -1"
        raise bad_input("--mesh", str(sizes), expected, "set the other axes")


def _check_batch(field: str, cfg: TrainConfig | DistillConfig | RefineConfig) -> None:
    """The parts of a batch are of one size, on one device too."""
    if getattr(cfg, "pack_documents", False) and cfg.accumulate > 1:
        raise bad_input(
            f"--{field}.accumulate",
            f"{cfg.accumulate} with packed documents",
            "1: a row holds documents of queries of any part",
            f"use --{field}.encode_chunks, which changes no gradient",
        )
    chunks = getattr(cfg, "encode_chunks", 1)
    parts = cfg.accumulate * chunks
    if cfg.batch_size % parts:
        of_chunks = f" and encode_chunks {chunks}" if chunks > 1 else ""
        raise bad_input(
            f"--{field}.batch_size",
            f"{cfg.batch_size} rows with accumulate {cfg.accumulate}{of_chunks}",
            f"a multiple of {parts}",
            f"set it to {-(-cfg.batch_size // parts) * parts}",
        )


def _check_matryoshka(field: str, sizes: tuple[int, ...], dim: int) -> None:
    last = sizes[-1] if sizes else 0
    if sizes and (sorted(set(sizes)) != list(sizes) or (dim and last != dim)):
        expected = f"rising lengths, the last {dim or 'D'}" + (" (D)" if dim else "")
        raise bad_input(f"--{field}.matryoshka", str(sizes), expected, "change them")


def _check_train(config: Config) -> None:
    cfg, teacher = config.train, config.teacher
    if not cfg.duration:
        return
    _check_batch("train", cfg)
    _check_matryoshka("train", cfg.matryoshka, known_dim(teacher.doc) or known_dim(teacher.query))
    if cfg.learn_temperature and 1 / cfg.temperature > cfg.max_logit_scale:
        given = f"{cfg.temperature:g}, which is learned, with max_logit_scale"
        raise bad_input(
            "--train.temperature",
            f"{given} {cfg.max_logit_scale:g}",
            f"at least {1 / cfg.max_logit_scale:g}, the cap",
            "raise one of them, or set --train.learn_temperature=false",
        )
    if cfg.fit_query_projection and (teacher.share or not teacher.query.projection):
        fix = "set --teacher.share=false and --teacher.query.projection, as the document side's"
        given = "true without a projection of the query side's own"
        raise bad_input("--train.fit_query_projection", given, "one", fix)


def _check_title_prediction(config: Config) -> None:
    how, doc, field = config.train.title_prediction, config.teacher.doc, "--train.title_prediction"
    if how == "none" or not config.train.duration:
        return
    if doc.bidirectional or not isinstance(doc.shape, DecoderShape | None):
        given = f"{how!r}, with a document tower whose tokens see those after them"
        raise bad_input(field, given, "a causal decoder", "choose another tower, or 'none'")
    if doc.num_layers == NO_LAYERS:
        raise bad_input(field, f"{how!r}, with a tower without layers", "some", "or 'none'")
    if how == "contrastive" and not title_is_first(doc.text.prompt):
        raise bad_input(
            field,
            f"{how!r}, with the document prompt {doc.text.prompt!r}",
            "{title} before {text}",
            "change --teacher.doc.text.prompt, or choose 'generative'",
        )


def check_mining(cfg: MineConfig, negatives_per_query: int, by_rank: bool = False) -> None:
    """
    Args:
        negatives_per_query: of stage 1.
        by_rank: stage 3 mines too.

    Raises:
        UserError: rounds that cannot follow each other, or a window that cannot give what is asked.
    """
    rounds = cfg.rounds
    if not rounds or rounds[0] == "teacher" or "none" in rounds[1:]:
        raise bad_input(
            "--mine.rounds",
            ",".join(rounds) or "nothing",
            "none, judged or bm25, then judged, bm25 or teacher for each further training",
            "such as --mine.rounds=none,teacher",
        )
    if rounds != ("none",) and negatives_per_query < 1:
        raise bad_input(
            "--train.negatives_per_query",
            f"{negatives_per_query} with --mine.rounds={','.join(rounds)}",
            "at least 1: so many of the hard negatives are drawn for each query",
            "raise it, such as to 7",
        )
    if not 1 <= cfg.first_rank <= cfg.last_rank:
        given, fix = f"{cfg.first_rank} to {cfg.last_rank}", "set --mine.first_rank=1"
        raise bad_input("--mine.last_rank", given, "a window that starts at rank 1 or later", fix)
    window = cfg.last_rank - cfg.first_rank + 1
    if (by_rank or {"bm25", "teacher"} & set(rounds)) and cfg.negatives > window:
        given = f"{cfg.negatives} of a window of {window} ranks"
        fix = "lower it, or widen the window with --mine.last_rank"
        raise bad_input("--mine.negatives", given, f"at most {window}", fix)


def _check_mining(config: Config) -> None:
    rounds = config.mine.rounds
    if not config.train.duration and rounds != ("none",):
        given = f"{','.join(rounds)} without stage 1, which would learn from them"
        fix = "leave it out, or set --train.duration"
        raise bad_input("--mine.rounds", given, "none", fix)
    check_mining(config.mine, config.train.negatives_per_query, bool(config.refine.duration))


def check_weights(cfg: DistillConfig) -> None:
    """
    Raises:
        UserError: weights that leave nothing to learn, or the opposite of it.
    """
    names = ("w_mse", "w_cos", "w_kl", "w_margin", "w_rank")
    weights = {name: getattr(cfg, name) for name in names}
    if min(weights.values()) < 0 or not any(weights.values()):
        given = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
        raise bad_input("--distill", given, "no weight below 0, and one above", "change them")


def check_query_sources(cfg: DistillConfig) -> None:
    """
    Raises:
        UserError: sources, weights or noise that give no text, or not the one that is meant.
    """
    sources, weights = cfg.queries, cfg.query_weights
    if not set(sources) - {"noised"} or len(set(sources)) < len(sources):
        expected = "one or more sources of texts, each once; 'noised' disturbs those of the others"
        given = ",".join(sources) or "nothing"
        raise bad_input("--distill.queries", given, expected, "such as train,sentences")
    weighed = (*sources, *(("query_files",) if cfg.query_files else ()))
    if weights and (len(weights) != len(weighed) or min(weights) < 0 or not any(weights)):
        raise bad_input(
            "--distill.query_weights",
            ",".join(f"{w:g}" for w in weights),
            f"a weight of 0 or more for each of {', '.join(weighed)}",
            "change it, or leave it out: then each text comes once in an epoch",
        )
    if "noised" in sources and not cfg.noise:
        fix = "name some, or leave 'noised' out of --distill.queries"
        raise bad_input("--distill.noise", "nothing", "kinds of noise", fix)


def _check_brought(config: Config) -> None:
    """Vectors that others have made are of a teacher as it was then."""
    brought = {
        "encode.vectors": config.encode.vectors,
        "distill.query_vectors": config.distill.query_vectors,
    }
    for name, path in brought.items():
        if path and config.train.duration:
            given = f"{path!r} with a teacher that stage 1 changes"
            fix = "set --train.duration= (nothing), or leave it out"
            raise bad_input(f"--{name}", given, "towers as they come", fix)


def _check_distill(config: Config) -> None:
    cfg = config.distill
    if not cfg.duration:
        return
    _check_batch("distill", cfg)
    check_weights(cfg)
    check_query_sources(cfg)
    from_teacher = cfg.student.weights.startswith("teacher:")
    tower = config.teacher.query if from_teacher else cfg.student
    _check_matryoshka("distill", cfg.matryoshka, known_dim(tower))
    if cfg.fit_projection and not tower.projection:
        fix, given = "set --distill.student.projection to the teacher's D", "true for a student"
        where = "--distill.fit_projection"
        raise bad_input(where, f"{given} without a projection", "a projection", fix)


def _check_refine(config: Config) -> None:
    if not config.refine.duration:
        return
    if not config.distill.duration:
        given = f"{config.refine.duration!r} without stage 2, whose student it refines"
        fix = "set --distill.duration too, or leave both empty"
        raise bad_input("--refine.duration", given, "''", fix)
    _check_batch("refine", config.refine)


TRAINING_RULES = (
    _check_mesh,
    _check_mining,
    _check_train,
    _check_brought,
    _check_title_prediction,
    _check_distill,
    _check_refine,
)
