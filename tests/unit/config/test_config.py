"""Configs: files, overrides, durations, and the workdir that remembers one."""

from __future__ import annotations

import json

import pytest

from scalingnote_jax.config import BertShape, Config, TowerConfig, TowersConfig, replace
from scalingnote_jax.config.load import apply_overrides, load_config
from scalingnote_jax.config.values import from_json, read_workdir_config, section_hash, to_json
from scalingnote_jax.errors import UserError
from scalingnote_jax.startup import claim_workdir
from scalingnote_jax.train.durations import steps_of

CONFIG = Config(name="test", teacher=TowersConfig(query=TowerConfig(shape=BertShape())))


def test_overrides_reach_every_kind_of_field():
    config = apply_overrides(
        CONFIG,
        [
            "--train.batch_size=8",
            "--train.optim.learning_rate=3e-4",
            "--teacher.share=true",
            "--teacher.query.text.buckets=8,32",
            "--teacher.query.shape.hidden_size=32",
            "--eval.systems=bm25,student",
            "--train.duration=20 steps",
            "--data.packages=",
        ],
    )
    assert config.train.batch_size == 8
    assert config.train.optim.learning_rate == 3e-4
    assert config.teacher.share is True
    assert config.teacher.query.text.buckets == (8, 32)
    assert config.teacher.query.shape == replace(BertShape(), hidden_size=32)
    assert config.eval.systems == ("bm25", "student")
    assert config.train.duration == "20 steps"
    assert config.data.packages == ()
    assert config.distill == CONFIG.distill


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("--train.batchsize=8", "did you mean --train.batch_size?"),
        ("--train.batch_size=many", "expected an integer, 1 or more"),
        ("--encode.store_dtype=half", "one of ('float32', 'bfloat16', 'int8')"),
        ("train.batch_size=8", "--section.field=value"),
    ],
)
def test_a_wrong_override_is_one_line_with_the_fix(word, says):
    with pytest.raises(UserError, match="expected") as e:
        apply_overrides(CONFIG, [word])
    assert says in str(e.value)


def test_json_round_trip_keeps_types_and_hash():
    back = from_json(json.loads(json.dumps(to_json(CONFIG))))
    assert back == CONFIG
    assert section_hash(back) == section_hash(CONFIG)
    assert section_hash(replace(CONFIG, seed=1)) != section_hash(CONFIG)


def test_a_config_file_that_is_missing_or_broken(tmp_path):
    with pytest.raises(UserError, match="no such file; expected a Python file with get_config"):
        load_config(tmp_path / "none.py")
    broken = tmp_path / "broken.py"
    broken.write_text("def get_config(): return undefined_name")
    with pytest.raises(UserError, match="undefined_name"):
        load_config(broken)
    broken.write_text("def get_config(): return 3")
    with pytest.raises(UserError, match="returned int"):
        load_config(broken)


def test_a_workdir_belongs_to_one_config(tmp_path):
    claim_workdir(CONFIG, tmp_path, overwrite=False)
    claim_workdir(CONFIG, tmp_path, overwrite=False)
    other = apply_overrides(CONFIG, ["--train.batch_size=128"])
    with pytest.raises(UserError, match=r"train\.batch_size is 64 there; expected 128"):
        claim_workdir(other, tmp_path, overwrite=False)
    assert read_workdir_config(tmp_path) == CONFIG
    claim_workdir(other, tmp_path, overwrite=True)
    assert read_workdir_config(tmp_path) == other


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("200 steps", 200),
        ("3 epochs", 30),
        ("100 examples", 25),
        ("10%", 5),
        ("1 epoch", 10),
        ("0.5 epochs", 5),
    ],
)
def test_durations(text, steps):
    assert steps_of("x", text, batch_size=4, steps_per_epoch=10, total_steps=50) == steps


@pytest.mark.parametrize("text", ["200", "three epochs", "10 days", "-3 steps", ""])
def test_other_forms_of_durations_are_refused(text):
    with pytest.raises(UserError, match=r"--train\.duration"):
        steps_of("train.duration", text, batch_size=4, steps_per_epoch=10)
    with pytest.raises(UserError):
        steps_of("train.duration", "10%", batch_size=4, steps_per_epoch=10)
