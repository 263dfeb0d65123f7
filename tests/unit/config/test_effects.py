"""Options that have no effect in a config are refused, each by name; the others are read."""

from __future__ import annotations

import ast
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from test_validate import CONFIG, changed, said_of

import scalingnote_jax
from scalingnote_jax.config import Config, DecoderShape, ModernBertShape, TowerConfig, TowersConfig
from scalingnote_jax.config.rules.effects import OF_CONFIG, OF_SHAPE, OF_TOWER
from scalingnote_jax.config.validate import validate
from scalingnote_jax.config.values import field_values

PACKAGE = Path(scalingnote_jax.__file__).parent
LEARNED = {"train.negatives_per_query": 7}
REFINES = {"refine.duration": "1 epochs"}
BEIR = {"data.source": "beir", "data.path": "/x"}
MIXED = {"data.source": "beir", "data.mixture": ("a=/y",)}
TAUGHT = {"train.duration": "", "distill.query_vectors": "q.parquet"}
SCORES = {"distill.w_kl": 1.0}
DECODERS = TowersConfig(CONFIG.teacher.query, CONFIG.teacher.query)

# field → a value, what else is set so that it has no effect, and what so that it has
CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "data.path": (
        "/x",
        {"data.source": "beir", "data.mixture": ("a=/y",)},
        {"data.source": "beir"},
    ),
    "data.query_field": ("q", {}, {"data.source": "pairs"}),
    "data.positive_field": ("q", BEIR, {"data.mixture": ("a=tfds:y",)}),
    "data.negative_fields": (("n",), BEIR, {"data.source": "tfds"}),
    "data.packages": (("numpy",), BEIR, {}),
    "data.max_documents": (9, {"data.source": "pairs"}, {}),
    "data.test_percent": (9, BEIR, {}),
    "data.dev_percent": (9, BEIR, {"data.source": "pairs"}),
    "data.seed": (9, BEIR, {"data.source": "tfds"}),
    "train.max_logit_scale": (50.0, {"train.learn_temperature": False}, {}),
    "train.temperature_learning_rate": (0.1, {"train.learn_temperature": False}, {}),
    "train.w_title": (0.5, {}, {"train.title_prediction": "generative", "teacher": DECODERS}),
    "train.loss_tile": (64, {"train.loss": "dense"}, {}),
    "mine.continue_weights": (
        True,
        LEARNED | {"mine.rounds": ("bm25",)},
        LEARNED | {"mine.rounds": ("bm25", "teacher")},
    ),
    "mine.first_rank": (2, LEARNED | {"mine.rounds": ("judged",)}, {}),
    "mine.last_rank": (50, LEARNED | {"mine.rounds": ("judged",)}, REFINES),
    "mine.absolute_margin": (0.1, LEARNED | {"mine.rounds": ("bm25",)}, {}),
    "mine.relative_margin": (None, LEARNED | {"mine.rounds": ("bm25",)}, REFINES),
    "mine.max_score": (
        0.9,
        LEARNED | {"mine.rounds": ("bm25", "judged")},
        LEARNED | {"mine.rounds": ("none", "teacher")},
    ),
    "index.uri": ("x.db", {}, {"index.engine": "milvus"}),
    "index.exact_below": (9, {"index.engine": "exact"}, {}),
    "index.partition_above": (9, {"index.engine": "exact"}, {}),
    "index.target_recall": (0.9, {"index.engine": "milvus"}, {}),
    "index.max_shard_rows": (9, {"index.engine": "milvus"}, {}),
    "distill.sentences_per_document": (3, {}, {"distill.queries": ("train", "sentences")}),
    "distill.swaps_per_query": (3, {}, {"distill.queries": ("train", "swapped")}),
    "distill.noise": (("typos",), {}, {"distill.queries": ("train", "noised")}),
    "distill.noise_strength": (0.5, {}, {"distill.queries": ("train", "noised")}),
    "distill.query_weights": ((1.0,), {}, {}),
    "distill.queries": (("titles",), TAUGHT, {}),
    "distill.query_files": (("log.txt",), TAUGHT, {}),
    "distill.normalise": ("pre", {"distill.w_mse": 0.0}, {}),
    "distill.score_temperature": (0.1, {"distill.w_margin": 1.0}, SCORES),
    "distill.top_documents": (8, {}, {"distill.w_margin": 1.0}),
    "distill.sample_documents": (8, {}, {"distill.w_rank": 1.0}),
    "distill.probe_every": ("10%", {"distill.probe_queries": 0}, {}),
    "refine.duration": ("1 epochs", {"distill.duration": ""}, {}),
    "refine.batch_size": (32, {}, REFINES),
    "refine.negatives_per_query": (3, {}, REFINES),
    "refine.temperature": (0.1, {}, REFINES),
    "refine.false_negative_margin": (0.1, {}, REFINES),
    "refine.w_align": (0.1, {}, REFINES),
    "refine.accumulate": (2, {}, REFINES),
    "refine.bucket_window": (2, {}, REFINES),
    "refine.optim.learning_rate": (1e-3, {}, REFINES),
    "refine.optim.weight_decay": (0.1, {}, REFINES),
    "refine.optim.warmup": ("2%", {}, REFINES),
    "refine.optim.schedule": ("linear", {}, REFINES),
    "refine.optim.clip_norm": (2.0, {}, REFINES),
    "refine.optim.skip_spikes": (6.0, {}, REFINES),
    "refine.optim.moment_dtype": ("bfloat16", {}, REFINES),
    "refine.log_every": ("1 steps", {}, REFINES),
    "refine.checkpoint_every": ("1 steps", {}, REFINES),
    "teacher.query.lora.alpha": (8.0, {}, {"teacher.query.lora.rank": 4}),
    "teacher.doc.lora.modules": (("q",), {}, {"teacher.doc.lora.rank": 4}),
    "distill.student.text.title_tokens": (5, {}, {"distill.student.text.prompt": "{title} {text}"}),
    "teacher.query.shape.global_every": (2, {}, {"teacher.query.shape.window": 8}),
    "teacher.query.shape.local_rope_theta": (100.0, {}, {"teacher.query.shape.window": 8}),
    "teacher.query.shape.rope_scaling.low_turns": (
        2.0,
        {},
        {"teacher.query.shape.rope_scaling.kind": "llama3"},
    ),
    "teacher.query.shape.rope_scaling.high_turns": (
        2.0,
        {},
        {"teacher.query.shape.rope_scaling.kind": "llama3"},
    ),
    "teacher.query.shape.rope_scaling.old_positions": (
        9,
        {},
        {"teacher.query.shape.rope_scaling.kind": "llama3"},
    ),
    "teacher.doc.shape.reach": (9, {"teacher.doc.shape.global_every": 1}, {}),
    "teacher.doc.shape.local_rope_theta": (9.0, {"teacher.doc.shape.global_every": 1}, {}),
    # By rules of their own
    "data.more_splits": (("easy",), {}, BEIR),
    "train.mixture_weights": ((1.0,), {}, MIXED),
    "train.single_collection_batches": (
        True,
        {},
        MIXED,
    ),
    "teacher.query.lora.base_dtype": ("int8", {}, {"teacher.query.lora.rank": 4}),
    "index.reorder": (50, {}, {"index.target_recall": 0.0}),
    "index.search_percent": (50.0, {}, {"index.target_recall": 0.0}),
    "index.tuning_queries": (50, {"index.target_recall": 0.0}, {}),
    "index.tuning_builds": (1, {"index.target_recall": 0.0}, {}),
    "eval.robustness_strengths": ((0.2,), {}, {"eval.robustness": ("typos",)}),
    "eval.robustness_documents": ("/x", {}, {"eval.robustness": ("foreign_documents",)}),
}


def with_all(changes: dict[str, Any]) -> Config:
    config = CONFIG
    for name, value in changes.items():
        config = changed(config, name, value)
    return config


@pytest.mark.parametrize("field", CASES)
def test_what_is_set_in_vain_is_refused(field: str) -> None:
    value, idle, active = CASES[field]
    validate(with_all(idle))
    assert f"--{field}: " in said_of(with_all(idle | {field: value}))
    if field != "distill.query_weights":
        validate(with_all(active | {field: value}))


def test_every_entry_of_the_table_is_tried() -> None:
    """A field of a tower or a shape in one place: the table is the same for all of them."""
    listed = {f"{s}.{f}" for s, effects in OF_CONFIG.items() for e in effects for f in e.fields}
    listed |= {f"*.{field}" for effect in OF_TOWER for field in effect.fields}
    listed |= {f"*.shape.{f}" for effects in OF_SHAPE.values() for e in effects for f in e.fields}
    assert not [name for name in listed if not any(fnmatchcase(case, name) for case in CASES)]


def test_a_stage_that_is_left_out_keeps_its_options() -> None:
    validate(with_all({"distill.sample_documents": 8, "distill.duration": ""}))


def test_every_tower_and_the_defaults_of_its_own_shape() -> None:
    window = replace(DecoderShape(), global_every=2)
    for where in ("teacher.query", "teacher.doc", "distill.student"):
        tower = TowerConfig("random", window, "bytes", projection=16)
        assert f"--{where}.shape.global_every: 2" in said_of(changed(CONFIG, where, tower))
    modern = replace(ModernBertShape(), global_every=1)
    validate(changed(CONFIG, "teacher.doc.shape", modern))


def test_every_option_is_read() -> None:
    """By its name, outside of the modules that declare and check it."""
    apart = PACKAGE / "config"
    paths = [p for p in PACKAGE.rglob("*.py") if p.parent not in (apart, apart / "rules")]
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text()))]
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    read |= {node.value for node in nodes if isinstance(node, ast.Constant)}
    unread = {name for name in field_values(CONFIG) if name.rpartition(".")[2] not in read}
    assert not unread
