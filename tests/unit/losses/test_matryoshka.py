"""Losses on the first components of vectors: by hand, and in both stages."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalingnote_jax.config import MeshConfig, TrainConfig, replace
from scalingnote_jax.config.load import load_config
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.errors import UserError
from scalingnote_jax.losses.contrastive_form import contrastive_form
from scalingnote_jax.losses.distill import distill_loss
from scalingnote_jax.losses.matryoshka import check_sizes, matryoshka
from scalingnote_jax.models.tower import normalise, tower_def
from scalingnote_jax.text.contract import tokens_of, tower_tokenizer
from scalingnote_jax.train import stage1
from scalingnote_jax.vectors.encode import stored_vectors
from scalingnote_jax.vectors.encoder import Encoder


def test_by_hand() -> None:
    student, teacher_raw = jnp.array([[1.0, 0.0, 1.0]]), jnp.array([[1.0, 1.0, 1.0]])
    loss = matryoshka(partial(distill_loss, w_mse=0.0, w_cos=1.0, where="post"), (1, 2, 3))
    total, sums = loss(student, teacher_raw)
    # Cosines of the first one, two and three components.
    cosines = [1.0, 1 / np.sqrt(2), 2 / np.sqrt(6)]
    assert float(total) == pytest.approx(1 - np.mean(cosines), abs=1e-6)
    assert float(sums["cosine"]) == pytest.approx(cosines[2], abs=1e-6)


@pytest.mark.parametrize("form", ["dense", "blockwise"])
def test_is_the_mean_over_cut_vectors(form: Any) -> None:
    rng = np.random.default_rng(0)
    query, docs = rng.normal(size=(4, 8)), rng.normal(size=(4, 2, 8))
    ids = {
        "query_ids": jnp.arange(4),
        "doc_ids": jnp.arange(8).reshape(4, 2),
        "positive_ids": 2 * jnp.arange(4)[:, None],
        "scale": 3.0,
    }
    one = contrastive_form(TrainConfig(loss=form), 4, 8, None)

    def unit(query_raw: jax.Array, doc_raw: jax.Array) -> Any:
        return one(normalise(query_raw), normalise(doc_raw), **ids)

    nested = matryoshka(unit, (2, 8))

    @jax.jit
    def all_of_it(query: jax.Array, docs: jax.Array) -> Any:
        whole = jax.value_and_grad(lambda q, d: nested(q, d)[0], (0, 1))(query, docs)
        plain = jax.grad(lambda q, d: unit(q, d)[0] / 2, (0, 1))(query, docs)
        return *whole, plain, [unit(query[:, :d], docs[..., :d])[0] for d in (2, 8)]

    value, gradient, plain, parts = all_of_it(query, docs)
    assert float(value) == pytest.approx(float(sum(parts)) / 2, rel=1e-5)
    for a, b in zip(gradient, plain, strict=True):
        # The components from 2 on have their part in the whole alone, the first two in both.
        np.testing.assert_allclose(a[..., 2:], b[..., 2:], atol=1e-5)
        assert np.abs(a[..., :2] - b[..., :2]).max() > 1e-2
    assert matryoshka(unit, ()) is unit


def test_sizes_rise_to_the_whole_vector(tiny_config: Path) -> None:
    config = load_config(tiny_config)
    mesh = make_mesh(config.mesh)
    for sizes in ((4, 8), (8, 4, 16), (0, 16), (16, 32)):
        wrong = replace(config, train=replace(config.train, matryoshka=sizes))
        with pytest.raises(UserError, match=r"train\.matryoshka: .*the last 16 \(D\)"):
            stage1.program(wrong.train, wrong.teacher, wrong.seed, mesh, 10)
    check_sizes("x", (4, 16), 16)
    check_sizes("x", (4, 8, 16), 16)
    check_sizes("x", (), 16)


@pytest.mark.slow
def test_vectors_for_search_may_be_cut(tiny_config: Path, tmp_path: Path) -> None:
    cfg = load_config(tiny_config).teacher.query
    tower, tokenizer = tower_def(cfg), tower_tokenizer(cfg)
    params = tower.pretrained_params(0)
    mesh, texts = make_mesh(MeshConfig(data=1), jax.devices()[:1]), ["amber basin", "cedar"]
    whole, cut = (Encoder(tower, params, tokenizer, mesh, 2, dim=d) for d in (0, 4))
    raw = cut.encode(texts)
    np.testing.assert_array_equal(raw, whole.encode(texts))  # distillation reads all of them
    np.testing.assert_allclose(cut.unit(raw), normalise(raw[:, :4]), atol=1e-6)
    np.testing.assert_allclose(whole.unit(raw), normalise(raw), atol=1e-6)

    def stored(encoder: Encoder) -> np.ndarray:
        return stored_vectors(
            encoder,
            tmp_path / "vectors",
            "texts",
            ["a", "b"],
            lambda: tokens_of([("", text) for text in texts], cfg, tokenizer),
            {},
            unit=True,
            shard_rows=9,
        ).vectors()

    for encoder in (whole, cut):  # the second is not taken for the first
        np.testing.assert_allclose(stored(encoder), encoder.unit(raw), atol=1e-6)
    with pytest.raises(UserError, match=r"encode\.dim: 17; expected 0 \(all\) to 16"):
        Encoder(tower, {}, tokenizer, mesh, 2, dim=17)
