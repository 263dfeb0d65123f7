"""The losses against numbers that can be checked by eye, and against a loop over queries; the same
on 1, 2 and 8 devices.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalingnote_jax.config import Config, MeshConfig, TrainConfig
from scalingnote_jax.config.load import apply_overrides
from scalingnote_jax.config.values import from_json, to_json
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.losses.contrastive import contrastive_loss
from scalingnote_jax.losses.distill import distill_loss
from scalingnote_jax.losses.spread import spread_by_moments, spread_by_pairs

TOLERANCE = 1e-5


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def batch(rng, queries=8, group=3, dim=16, documents=12, most_positives=3):
    """A batch with recurring documents, two equal queries, and queries of several positives."""
    doc_ids = rng.integers(0, documents, (queries, group))
    positive_ids = np.full((queries, most_positives), -1)
    positive_ids[:, 0] = doc_ids[:, 0]
    positive_ids[::2, 1] = rng.integers(0, documents, len(positive_ids[::2]))
    query_ids = np.arange(queries)
    query_ids[1] = query_ids[0]
    positive_ids[1] = positive_ids[0]
    doc_ids[1, 0] = doc_ids[0, 0]
    return {
        "query_emb": unit(rng.normal(size=(queries, dim))).astype(np.float32),
        "doc_emb": unit(rng.normal(size=(queries, group, dim))).astype(np.float32),
        "query_ids": query_ids.astype(np.int32),
        "doc_ids": doc_ids.astype(np.int32),
        "positive_ids": positive_ids.astype(np.int32),
    }


def by_loops(b, scale, symmetric):
    """The definition, one query at a time, in float64."""
    q, d = b["query_emb"].astype(np.float64), b["doc_emb"].astype(np.float64)
    total = 0.0
    for i in range(len(q)):
        positive = np.exp(scale * q[i] @ d[i, 0])
        forward = positive
        for j in range(len(q)):
            for g in range(d.shape[1]):
                if b["doc_ids"][j, g] not in b["positive_ids"][i]:
                    forward += np.exp(scale * q[i] @ d[j, g])
        loss = -np.log(positive / forward)
        if symmetric:
            back = positive
            for j in range(len(q)):
                relevant = b["doc_ids"][i, 0] in b["positive_ids"][j]
                if not relevant and b["query_ids"][i] != b["query_ids"][j]:
                    back += np.exp(scale * q[j] @ d[i, 0])
            loss = (loss - np.log(positive / back)) / 2
        total += loss
    return total


def test_two_queries_by_hand():
    # Orthogonal unit vectors, scale 1: positive score 1, the one negative scores 0, so the loss is
    # log(1 + e^-1) twice.
    eye = np.eye(2, dtype=np.float32)
    loss, counts = contrastive_loss(
        eye,
        eye[:, None],
        query_ids=jnp.arange(2),
        doc_ids=jnp.arange(2)[:, None],
        positive_ids=jnp.arange(2)[:, None],
        scale=1.0,
        symmetric=True,
    )
    assert loss == pytest.approx(2 * np.log(1 + np.exp(-1)), abs=TOLERANCE)
    assert counts["correct"] == 2
    assert counts["negatives"] == 2


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group", [1, 3])
def test_equals_the_definition(symmetric, group):
    b = batch(np.random.default_rng(group), group=group)
    loss, _ = contrastive_loss(**b, scale=5.0, symmetric=symmetric)
    assert loss == pytest.approx(by_loops(b, 5.0, symmetric), rel=TOLERANCE)


def test_a_batch_of_one_document_has_no_negatives_and_no_nan():
    b = batch(np.random.default_rng(0))
    b["doc_ids"][:] = 4
    b["positive_ids"][:, 0] = 4
    loss, counts = contrastive_loss(**b, scale=20.0, symmetric=True)
    assert loss == 0.0
    assert counts["negatives"] == 0


def test_another_row_order_gives_the_same_loss():
    b = batch(np.random.default_rng(1))
    order = np.random.default_rng(2).permutation(8)
    loss, _ = contrastive_loss(**b, scale=5.0, symmetric=True)
    shuffled, _ = contrastive_loss(**{k: v[order] for k, v in b.items()}, scale=5.0, symmetric=True)
    assert shuffled == pytest.approx(float(loss), rel=TOLERANCE)


@pytest.mark.parametrize("devices", [2, 8])
def test_value_and_gradient_do_not_depend_on_the_device_count(devices):
    b = batch(np.random.default_rng(3), queries=16, group=3)
    names = ("query_emb", "doc_emb")

    def mean_loss(vectors, rest):
        loss, _ = contrastive_loss(**vectors, **rest, scale=5.0, symmetric=True)
        return loss / 16

    def value_and_grad(count):
        mesh = mesh_lib.make_mesh(MeshConfig(), jax.devices()[:count])
        put = {k: jax.device_put(v, mesh_lib.batch_sharding(mesh)) for k, v in b.items()}
        vectors = {k: put.pop(k) for k in names}
        return jax.jit(jax.value_and_grad(mean_loss))(vectors, put)

    (one, one_grad), (many, many_grad) = value_and_grad(1), value_and_grad(devices)
    assert many == pytest.approx(float(one), rel=TOLERANCE)
    for name in names:
        np.testing.assert_allclose(many_grad[name], one_grad[name], atol=TOLERANCE)


def two_of_two(cosine: float) -> dict[str, np.ndarray]:
    """Two queries with their documents; the cosine of query 0 with document 0 is 0.6, with document
    1 as given; query 1 meets document 1 at 1.
    """
    d0 = [0.6, 0.8]
    d1 = [cosine, -np.sqrt(1 - cosine**2)]
    ids = np.arange(2, dtype=np.int32)
    return {
        "query_emb": np.array([[1.0, 0.0], d1], np.float32),
        "doc_emb": np.array([[d0], [d1]], np.float32),
        "query_ids": ids,
        "doc_ids": ids[:, None],
        "positive_ids": ids[:, None],
    }


@pytest.mark.parametrize(("cosine", "negatives"), [(0.69, 2), (0.71, 1)])
def test_a_document_above_the_positive_by_more_than_the_margin_is_no_negative(cosine, negatives):
    b = two_of_two(cosine)
    options = {"scale": 1.0, "symmetric": False, "false_negative_margin": 0.1}
    loss, counts = contrastive_loss(**b, **options)
    assert counts["negatives"] == negatives
    assert counts["correct"] == 3 - negatives  # query 0 is right once document 1 is out
    second = np.log1p(np.exp(b["query_emb"][1] @ b["doc_emb"][0, 0] - 1))
    first = np.log1p(np.exp(cosine - 0.6)) if negatives == 2 else 0.0
    assert loss == pytest.approx(first + second, abs=TOLERANCE)


def test_the_margin_also_holds_from_documents_to_queries_and_has_no_gradient():
    # Query 0 and document 1, at 0.71, are above both of their positives less 0.3 (0.3 and 0.7);
    # query 1 and document 0, at -0.14, are not.
    b = two_of_two(0.71)
    rest = {k: v for k, v in b.items() if k != "query_emb"}
    options = {"scale": 1.0, "symmetric": True, "false_negative_margin": -0.3}

    def loss(query_emb):
        return contrastive_loss(query_emb, **rest, **options)[0]

    kept = b["query_emb"][1] @ b["doc_emb"][0, 0]
    forward, back = np.log1p(np.exp(kept - 1.0)), np.log1p(np.exp(kept - 0.6))
    assert loss(b["query_emb"]) == pytest.approx((forward + back) / 2, abs=TOLERANCE)
    # What moves query 0 is its own document alone, by the softmax that query 1 has there.
    expected = -0.5 * (1 - np.exp(-back)) * b["doc_emb"][0, 0]
    np.testing.assert_allclose(jax.grad(loss)(b["query_emb"])[0], expected, atol=TOLERANCE)


def test_spread_by_hand():
    # Cosines of the three different pairs: 0.6, 0 and 0.8; the fourth row is the first text again.
    rows = np.array([[1, 0], [0.6, 0.8], [0, 1], [1, 0]], np.float32)
    expected = (0.36 + 0.64) / 3
    for spread in (jax.jit(spread_by_pairs), jax.jit(spread_by_moments)):
        assert spread(rows, jnp.array([7, 5, 6, 7])) == pytest.approx(expected, abs=TOLERANCE)
        assert spread(rows, jnp.array([7, 7, 7, 7])) == 0.0
        one_vector = rows[[0, 3, 0, 3]]
        assert spread(one_vector, jnp.array([1, 2, 1, 2])) == pytest.approx(1.0)


def test_spread_is_added_for_both_sides_and_scales_with_the_batch():
    # Queries: cosine 0.71; documents: 0.6·0.71 - 0.8·sqrt(1 - 0.71²).
    b = two_of_two(0.71)
    options = {"scale": 1.0, "symmetric": True}
    plain, _ = contrastive_loss(**b, **options)
    spread, _ = contrastive_loss(**b, **options, w_spread=0.5)
    squares = 0.71**2 + (0.6 * 0.71 - 0.8 * np.sqrt(1 - 0.71**2)) ** 2
    assert spread - plain == pytest.approx(2 * 0.5 * squares, abs=TOLERANCE)


def test_spread_by_moments_has_the_gradient_of_the_pairs():
    rng = np.random.default_rng(6)
    rows, ids = unit(rng.normal(size=(20, 6))).astype(np.float32), rng.integers(0, 12, 20)
    forms = (spread_by_pairs, spread_by_moments)
    by_pairs, by_moments = (jax.jit(jax.grad(f))(rows, ids) for f in forms)
    np.testing.assert_allclose(by_moments, by_pairs, atol=TOLERANCE)


@pytest.mark.parametrize(("word", "value"), [("0.1", 0.1), ("None", None)])
def test_the_margin_is_set_from_the_command_line(word, value):
    config = Config(name="x", train=TrainConfig(false_negative_margin=0.3))
    config = apply_overrides(config, [f"--train.false_negative_margin={word}"])
    assert config.train.false_negative_margin == value
    assert from_json(to_json(config)) == config


def test_distill_loss_by_hand():
    # Perpendicular vectors of norms 3 and 4: cosine 0, squared distance 25 raw and 2 on the unit
    # circle.
    student, teacher = np.array([[3.0, 0.0]], np.float32), np.array([[0.0, 4.0]], np.float32)
    raw, sums = distill_loss(student, teacher, w_mse=1.0, w_cos=10.0, where="pre")
    assert raw == pytest.approx(25 + 10)
    assert sums["cosine"] == pytest.approx(0.0)
    on_circle, sums = distill_loss(student, teacher, w_mse=1.0, w_cos=10.0, where="post")
    assert on_circle == pytest.approx(2 + 10)
    assert sums["squared_error"] == pytest.approx(2.0)


def test_on_unit_vectors_squared_error_is_twice_the_cosine_loss():
    rng = np.random.default_rng(4)
    student, teacher = rng.normal(size=(2, 5, 8)).astype(np.float32)
    mse, _ = distill_loss(student, teacher, w_mse=1.0, w_cos=0.0, where="post")
    cos, _ = distill_loss(student, teacher, w_mse=0.0, w_cos=1.0, where="post")
    assert mse == pytest.approx(2 * float(cos), rel=TOLERANCE)
    nothing, _ = distill_loss(teacher, teacher, w_mse=1.0, w_cos=1.0, where="pre")
    assert nothing == pytest.approx(0.0, abs=TOLERANCE)
