"""A tower without layers: what it computes, what it takes from a model, and what it cannot have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from run_parts import student_of
from small_models import LLAMA_CONFIG, E, V, llama_tensors, write_hf

from scalingnote_jax.config import (
    BertShape,
    Config,
    DecoderShape,
    LoraConfig,
    TextConfig,
    TowerConfig,
    TowersConfig,
    TrainConfig,
    replace,
)
from scalingnote_jax.errors import UserError
from scalingnote_jax.export.hf_config import config_of
from scalingnote_jax.losses.query_prediction import check_title_prediction
from scalingnote_jax.models.flops import tower_flops
from scalingnote_jax.models.from_teacher import from_teacher
from scalingnote_jax.models.layers.params import flatten
from scalingnote_jax.models.tower import tower_def

STATIC = TowerConfig(
    "random",
    shape=DecoderShape(),
    tokenizer="bytes",
    num_layers=-1,
    projection=8,
    text=TextConfig(max_tokens=4, buckets=(4,)),
)


def test_the_mean_of_token_vectors_times_the_projection() -> None:
    tower = tower_def(STATIC)
    params = tower.init(0)
    assert set(flatten(params)) == {"body/embedding/table", "projection"}
    table, head = params["body"]["embedding"]["table"], params["projection"]
    tokens, mask = np.array([[3, 5, 5, 0], [7, 0, 0, 0]]), np.array([[1, 1, 1, 0], [1, 0, 0, 0]])
    found = tower.apply(params, tokens, mask.astype(bool))
    np.testing.assert_allclose(found[0], (table[3] + 2 * table[5]) / 3 @ head, atol=1e-5)
    np.testing.assert_allclose(found[1], table[7] @ head, atol=1e-5)
    packed = tower.apply(params, np.array([[3, 7, 9, 0]]), np.array([[1, 2, 2, 0]]), None, 2)
    np.testing.assert_allclose(packed[0, 0], table[3] @ head, atol=1e-5)
    np.testing.assert_allclose(packed[0, 1], (table[7] + table[9]) / 2 @ head, atol=1e-5)


def test_the_order_of_words_means_nothing_and_both_weights_learn() -> None:
    tower = tower_def(STATIC)
    params, mask = tower.init(0), np.ones((1, 3), bool)
    a, b = (tower.apply(params, np.array([t]), mask) for t in ([1, 2, 3], [3, 1, 2]))
    np.testing.assert_allclose(a, b, atol=1e-6)
    gradient = jax.grad(lambda p: tower.apply(p, np.array([[1, 2, 3]]), mask).sum())(params)
    moved = np.abs(gradient["body"]["embedding"]["table"]).sum(axis=1)
    assert (moved[[1, 2, 3]] > 0).all()
    assert moved.sum() == pytest.approx(moved[1:4].sum())
    assert np.abs(gradient["projection"]).max() > 0


def test_what_it_costs() -> None:
    tower = tower_def(STATIC)
    assert tower.num_params(non_embedding=True) == 64 * 8
    assert tower_flops(tower, rows=3).model == 2 * 3 * 64 * 8  # the projection of one vector each


def test_the_table_alone_is_read_of_a_whole_model(tmp_path: Path) -> None:
    tensors = llama_tensors()
    ref = write_hf(tmp_path / "m", LLAMA_CONFIG, tensors)
    tower = tower_def(replace(STATIC, weights=ref, shape=None, projection=0))
    params = tower.pretrained_params(0)
    assert set(flatten(params)) == {"body/embedding/table"}
    np.testing.assert_array_equal(
        params["body"]["embedding"]["table"], tensors["embed_tokens.weight"]
    )
    assert (tower.dim, tower.shape.vocab_size) == (E, V)
    del tensors["layers.2.mlp.up_proj.weight"]  # a damaged model is refused all the same
    ref = write_hf(tmp_path / "n", LLAMA_CONFIG, tensors)
    with pytest.raises(UserError, match=r"tensors missing: 1 \(layers\.2\.mlp\.up_proj\.weight"):
        tower_def(replace(STATIC, weights=ref, shape=None)).pretrained_params(0)


def test_a_student_takes_the_teachers_table() -> None:
    teacher_cfg = replace(STATIC, num_layers=0)
    config = Config("x", teacher=TowersConfig(query=teacher_cfg, doc=teacher_cfg))
    cfg = TowerConfig("teacher:first", num_layers=-1)
    config = replace(config, distill=replace(config.distill, student=cfg))
    student, teacher = tower_def(student_of(config)), tower_def(teacher_cfg)
    params = teacher.init(1)
    taken = from_teacher(student, teacher, params)
    assert set(taken) == set(flatten(student.abstract()[0]))
    np.testing.assert_array_equal(
        taken["body/embedding/table"], params["body"]["embedding"]["table"]
    )


def test_quantised_it_is_itself_in_bfloat16() -> None:
    tower = tower_def(STATIC)
    params = tower.init(0)
    small, stored = tower.quantised(params, "int8")
    tokens, mask = np.array([[3, 5, 6]]), np.ones((1, 3), bool)
    table = params["body"]["embedding"]["table"].astype("bfloat16").astype("float32")
    wanted = table[np.array([3, 5, 6])].mean(axis=0) @ params["projection"]
    np.testing.assert_allclose(small.apply(stored, tokens, mask)[0], wanted, atol=1e-5)
    assert small.merged(stored)[0].cfg.lora == LoraConfig()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": BertShape()}, "no layers of an encoder"),
        ({"pooling": "last"}, "pooling: 'last' of tokens that see no other; expected 'mean'"),
        ({"bidirectional": True}, "bidirectional: True without layers; expected False"),
        ({"dropout": 0.1}, "dropout: 0.1 without layers"),
        ({"remat": "full"}, "remat: 'full' without layers"),
        ({"lora": LoraConfig(rank=4)}, "adapters without layers"),
        ({"num_layers": -2}, "num_layers: -2; expected -1 or more"),
    ],
)
def test_what_it_cannot_have(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        tower_def(replace(STATIC, **change), "distill.student")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_cannot_be_made_of_it() -> None:
    tower = tower_def(STATIC)
    with pytest.raises(UserError, match="a tower without layers"):
        check_title_prediction(TrainConfig(title_prediction="generative"), tower)
    with pytest.raises(UserError, match=r"no layers; expected a model of `transformers`"):
        config_of(tower.shape, 4, 0, "float32")
