"""Which options have an effect only where others ask for it, and a config that sets one of them in
vain is refused. What cannot be said of the config alone, but of data or weights, is not here.

A stage that is left out on purpose (`distill.duration=""`) keeps its options: leaving it out is one
word on the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from scalingnote_jax.config import Config, DecoderShape, ModernBertShape, RopeScaling, TowerConfig
from scalingnote_jax.config.forms.mixture_entry import members
from scalingnote_jax.config.values import field_values
from scalingnote_jax.errors import bad_input


@dataclass(frozen=True)
class Effect:
    """Options that need something else.

    Attributes:
        fields: their names, without the section.
        holds: whether a config has it; or a tower, or a shape.
        needs: what it is, for the error.
    """

    fields: tuple[str, ...]
    holds: Callable[[Any], bool]
    needs: str


def _kinds(config: Config) -> set[str]:
    """Sources that the data are read from."""
    return {cfg.source for cfg in members(config.data).values()} or {config.data.source}


def _compares_scores(config: Config) -> bool:
    cfg = config.distill
    return cfg.w_kl > 0 or cfg.w_margin > 0 or cfg.w_rank > 0


def _mines(config: Config, *sources: str) -> bool:
    """By one of the sources, in stage 3, or by `scalingnote mine`, which needs no round."""
    rounds = config.mine.rounds
    return bool(set(sources) & set(rounds) or config.refine.duration or rounds == ("none",))


_REFINE = tuple(name for name in field_values(Config("x").refine) if name != "duration")

OF_CONFIG: dict[str, tuple[Effect, ...]] = {
    "data": (
        Effect(("path",), lambda c: not c.data.mixture, "data without a mixture"),
        Effect(
            ("query_field", "positive_field", "negative_fields"),
            lambda c: bool(_kinds(c) & {"pairs", "tfds"}),
            "a source 'pairs' or 'tfds'",
        ),
        Effect(("packages", "max_documents"), lambda c: "pydocs" in _kinds(c), "source 'pydocs'"),
        Effect(
            ("test_percent", "dev_percent", "seed"),
            lambda c: bool(_kinds(c) & {"pydocs", "pairs", "tfds"}),
            "a source that is cut into splits: 'pydocs', 'pairs' or 'tfds'",
        ),
    ),
    "train": (
        Effect(
            ("max_logit_scale", "temperature_learning_rate"),
            lambda c: c.train.learn_temperature,
            "--train.learn_temperature",
        ),
        Effect(("w_title",), lambda c: c.train.title_prediction != "none", "a title_prediction"),
        Effect(("loss_tile",), lambda c: c.train.loss != "dense", "a loss that is not 'dense'"),
    ),
    "mine": (
        Effect(("continue_weights",), lambda c: len(c.mine.rounds) > 1, "two or more rounds"),
        Effect(
            ("first_rank", "last_rank"),
            lambda c: _mines(c, "bm25", "teacher"),
            "a round 'bm25' or 'teacher', or stage 3",
        ),
        Effect(
            ("absolute_margin", "relative_margin", "max_score"),
            lambda c: _mines(c, "teacher"),
            "a round 'teacher', or stage 3",
        ),
    ),
    "index": (
        Effect(("uri",), lambda c: c.index.engine == "milvus", "engine 'milvus'"),
        Effect(
            ("exact_below", "partition_above", "target_recall", "max_shard_rows"),
            lambda c: c.index.engine == "scann",
            "engine 'scann'",
        ),
    ),
    "distill": (
        Effect(
            ("queries", "query_files", "query_weights"),
            lambda c: not c.distill.query_vectors,
            "no --distill.query_vectors, whose texts are learned",
        ),
        Effect(
            ("sentences_per_document",),
            lambda c: bool({"sentences", "titled"} & {*c.distill.queries}),
            "'sentences' or 'titled' in --distill.queries",
        ),
        Effect(
            ("swaps_per_query",),
            lambda c: "swapped" in c.distill.queries,
            "'swapped' in --distill.queries",
        ),
        Effect(
            ("noise", "noise_strength"),
            lambda c: "noised" in c.distill.queries,
            "'noised' in --distill.queries",
        ),
        Effect(
            ("query_weights",),
            lambda c: len(c.distill.queries) + bool(c.distill.query_files) > 1,
            "two or more of queries, or query_files",
        ),
        Effect(("normalise",), lambda c: c.distill.w_mse > 0, "w_mse above 0"),
        Effect(
            ("score_temperature",),
            lambda c: c.distill.w_kl > 0 or c.distill.w_rank > 0,
            "w_kl or w_rank above 0",
        ),
        Effect(
            ("top_documents", "sample_documents"),
            _compares_scores,
            "w_kl, w_margin or w_rank above 0",
        ),
        Effect(("probe_every",), lambda c: c.distill.probe_queries > 0, "probe_queries above 0"),
    ),
    "refine": (Effect(_REFINE, lambda c: bool(c.refine.duration), "--refine.duration"),),
}
OF_TOWER = (
    Effect(("lora.alpha", "lora.modules"), lambda t: t.lora.rank > 0, "lora.rank above 0"),
    Effect(("text.title_tokens",), lambda t: "{title}" in t.text.prompt, "{title} in the prompt"),
)
OF_SHAPE: dict[type, tuple[Effect, ...]] = {
    DecoderShape: (
        Effect(("global_every", "local_rope_theta"), lambda s: s.window > 0, "a window"),
        Effect(
            ("rope_scaling.low_turns", "rope_scaling.high_turns", "rope_scaling.old_positions"),
            lambda s: s.rope_scaling is not None and s.rope_scaling.kind == "llama3",
            "kind 'llama3'",
        ),
    ),
    ModernBertShape: (
        Effect(("reach", "local_rope_theta"), lambda s: s.global_every > 1, "global_every above 1"),
    ),
}


def check_effects(config: Config) -> None:
    """
    Raises:
        UserError: names the first option that is set and has no effect.
    """
    for name, value, effect in _set_in_vain(config):
        given = f"{value!r}, which has no effect here"
        raise bad_input(f"--{name}", given, effect.needs, "leave it out")


def _set_in_vain(config: Config) -> Iterator[tuple[str, Any, Effect]]:
    for section, effects in OF_CONFIG.items():
        cfg = getattr(config, section)
        if section == "distill" and not config.distill.duration:
            continue
        default = getattr(Config("x"), section)
        yield from _of(f"{section}.", effects, config, cfg, default)
    towers = {"teacher.query": config.teacher.query, "teacher.doc": config.teacher.doc}
    for where, tower in (towers | {"distill.student": config.distill.student}).items():
        yield from _of(f"{where}.", OF_TOWER, tower, tower, TowerConfig())
        shape = tower.shape
        if shape is not None:
            plain: Any = type(shape)()
            if isinstance(shape, DecoderShape) and shape.rope_scaling is not None:
                plain = DecoderShape(rope_scaling=RopeScaling())
            yield from _of(f"{where}.shape.", OF_SHAPE.get(type(shape), ()), shape, shape, plain)


def _of(
    where: str, effects: tuple[Effect, ...], subject: Any, section: Any, default: Any
) -> Iterator[tuple[str, Any, Effect]]:
    """Fields of the section that differ from their default, and have no effect on the subject."""
    idle = [effect for effect in effects if not effect.holds(subject)]
    if not idle:
        return
    values, defaults = field_values(section), field_values(default)
    for effect in idle:
        for name in effect.fields:
            if name in values and values[name] != defaults[name]:
                yield f"{where}{name}", values[name], effect
