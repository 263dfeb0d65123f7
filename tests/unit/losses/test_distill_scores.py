"""Stage 2's terms that look at documents: against numbers that can be checked by eye, closed-form
gradients, and one device against many.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalingnote_jax.config import DistillConfig, MeshConfig
from scalingnote_jax.config.rules.training_rules import check_weights
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import UserError
from scalingnote_jax.losses.distill import (
    distill_loss,
    needs_documents,
    stage2_loss,
)
from scalingnote_jax.losses.distill_scores import (
    candidate_scores,
    margin_error,
    rank_loss,
    real_candidates,
    score_kl,
)
from scalingnote_jax.losses.matryoshka import matryoshka

TOLERANCE = 1e-5
ALL = DistillConfig(w_kl=2.0, w_margin=3.0, w_rank=0.1, score_temperature=0.2)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def scores(seed=0, queries=3, candidates=5):
    rng = np.random.default_rng(seed)
    student, teacher = rng.uniform(-1, 1, (2, queries, candidates)).astype(np.float32)
    return student, teacher, np.ones((queries, candidates), bool)


def test_candidates_by_hand():
    # The query is the first axis. Its best: documents 7 and 8; sampled: 8 again, 5, 5 again, 6.
    query = np.array([[1.0, 0.0]], np.float32)
    top = np.array([[[1, 0], [0.8, 0.6]]], np.float32)
    sample = np.array([[0.8, 0.6], [0, 1], [0, 1], [-0.6, 0.8]], np.float32)
    found = candidate_scores(query, top, sample)
    np.testing.assert_allclose(found, [[1, 0.8, 0.8, 0, 0, -0.6]], atol=TOLERANCE)
    real = real_candidates(jnp.array([[7, 8]]), jnp.array([8, 5, 5, 6]))
    assert real.tolist() == [[True, True, False, True, False, True]]


def test_kl_by_hand():
    # Teacher at T = 1: 3/4 and 1/4; student: 1/2 and 1/2.
    teacher = np.log(np.array([[3.0, 1.0]], np.float32))
    student, real = np.zeros((1, 2), np.float32), np.ones((1, 2), bool)
    expected = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    assert score_kl(student, teacher, real, 1.0)[0] == pytest.approx(expected, abs=TOLERANCE)
    # The same choice at T = 2 needs scores of twice the size, and costs T² as much.
    doubled = score_kl(student, 2 * teacher, real, 2.0)[0]
    assert doubled == pytest.approx(4 * expected, abs=TOLERANCE)
    assert score_kl(teacher, teacher, real, 0.05)[0] == pytest.approx(0.0, abs=TOLERANCE)


def test_kl_has_the_known_gradient_and_is_half_a_variance_for_small_errors():
    student, teacher, real = scores()
    grad = jax.grad(lambda s: score_kl(s, teacher, real, 0.5).sum())(student)
    np.testing.assert_allclose(
        grad, 0.5 * (softmax(student / 0.5) - softmax(teacher / 0.5)), atol=TOLERANCE
    )
    error = 0.01 * student
    p = softmax(teacher / 0.5)
    variance = (p * error**2).sum(-1) - (p * error).sum(-1) ** 2
    small = score_kl(teacher + error, teacher, real, 0.5)
    np.testing.assert_allclose(small, variance / 2, rtol=0.1)


def test_margin_by_hand():
    # Margins to the first: teacher .5 and .9, student .3 and .2; the last candidate does not count.
    teacher = np.array([[0.9, 0.4, 0.0, 0.7]], np.float32)
    student = np.array([[0.5, 0.2, 0.3, -1.0]], np.float32)
    real = np.array([[True, True, True, False]])
    expected = ((0.3 - 0.5) ** 2 + (0.2 - 0.9) ** 2) / 2
    assert margin_error(student, teacher, real)[0] == pytest.approx(expected, abs=TOLERANCE)
    shifted = margin_error(teacher + 0.3, teacher, real)  # changes no margin
    assert shifted[0] == pytest.approx(0.0, abs=TOLERANCE)
    grad = jax.grad(lambda s: margin_error(s, teacher, real).sum())(student)
    np.testing.assert_allclose(grad, [[-0.9, 0.2, 0.7, 0.0]], atol=TOLERANCE)


def test_rank_by_hand():
    # All scores equal: the first of two wins against three, the second against two.
    equal, real = np.zeros((1, 3), np.float32), np.ones((1, 3), bool)
    expected = (np.log(3) + np.log(2)) / 2
    assert rank_loss(equal, real, 2, 0.5)[0] == pytest.approx(expected, abs=TOLERANCE)
    without = np.array([[True, True, False]])
    assert rank_loss(equal, without, 2, 0.5)[0] == pytest.approx(np.log(2) / 2, abs=TOLERANCE)


@pytest.mark.slow
def test_rank_equals_its_definition_and_its_gradient_sums_to_zero():
    student, _, real = scores(candidates=6)
    top, heat = 3, 0.3
    expected = np.zeros(len(student))
    for place in range(top):
        expected -= np.log(softmax(student[:, place:] / heat)[:, 0]) / top
    np.testing.assert_allclose(rank_loss(student, real, top, heat), expected, atol=TOLERANCE)
    grad = jax.grad(lambda s: rank_loss(s, real, top, heat).sum())(student)
    np.testing.assert_allclose(grad.sum(-1), 0.0, atol=TOLERANCE)
    assert (grad[:, top:] > 0).all()  # a step against it lowers what is only sampled
    # The teacher's order by itself costs less than any other.
    ordered = -np.sort(-student, axis=1)
    assert (rank_loss(ordered, real, top, heat) <= rank_loss(student, real, top, heat)).all()


def batch(queries=16, dim=16, top=4, sample=8):
    rng = np.random.default_rng(2)
    documents = unit(rng.normal(size=(30, dim))).astype(np.float32)
    best = np.stack([rng.permutation(30)[:top] for _ in range(queries)]).astype(np.int32)
    drawn = rng.integers(0, 30, sample).astype(np.int32)
    rows = {
        "student_raw": rng.normal(size=(queries, dim)).astype(np.float32),
        "teacher_raw": rng.normal(size=(queries, dim)).astype(np.float32),
        "top_emb": documents[best],
        "sample_emb": documents[drawn],
        "top_ids": best,
        "sample_ids": drawn,
    }
    return rows


def total_loss(student_raw, rest, cfg=ALL):
    loss, sums = stage2_loss(
        student_raw,
        rest["teacher_raw"],
        rest["top_emb"],
        rest["sample_emb"],
        cfg=cfg,
        ids=(rest["top_ids"], rest["sample_ids"]),
    )
    return loss, sums


@pytest.mark.slow
def test_terms_add_up_with_their_weights():
    rows = batch()
    loss, sums = total_loss(rows["student_raw"], rows)
    plain, plain_sums = distill_loss(
        rows["student_raw"], rows["teacher_raw"], w_mse=1.0, w_cos=1.0, where="post"
    )
    terms = {"kl": 2.0, "margin_error": 3.0, "rank_loss": 0.1}
    assert sums.keys() == plain_sums.keys() | terms.keys()
    expected = plain + sum(weight * sums[name] for name, weight in terms.items())
    assert loss == pytest.approx(float(expected), rel=TOLERANCE)


def test_without_weights_it_is_the_query_only_loss():
    rows = batch()
    pair = rows["student_raw"], rows["teacher_raw"]
    cfg = DistillConfig(w_mse=0.3, w_cos=0.7, normalise="pre")
    loss, sums = stage2_loss(*pair, cfg=cfg)
    expected, plain = distill_loss(*pair, w_mse=0.3, w_cos=0.7, where="pre")
    assert (loss, sums) == (expected, plain)


@pytest.mark.slow
def test_the_teacher_itself_is_the_minimum_of_all_but_the_ranking():
    rows = batch()
    cfg = DistillConfig(w_kl=1.0, w_margin=1.0)
    loss, grad = jax.value_and_grad(lambda s: total_loss(s, rows, cfg)[0])(rows["teacher_raw"])
    assert loss == pytest.approx(0.0, abs=1e-4)
    np.testing.assert_allclose(grad, 0.0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 8])
def test_value_and_gradient_do_not_depend_on_the_device_count(devices):
    rows = batch()

    def value_and_grad(count):
        mesh = mesh_lib.make_mesh(MeshConfig(), jax.devices()[:count])
        put = {k: jax.device_put(v, mesh_lib.batch_sharding(mesh)) for k, v in rows.items()}
        mean = jax.jit(jax.value_and_grad(lambda s, r: total_loss(s, r)[0] / 16))
        return mean(put.pop("student_raw"), put)

    (one, one_grad), (many, many_grad) = value_and_grad(1), value_and_grad(devices)
    assert many == pytest.approx(float(one), rel=TOLERANCE)
    np.testing.assert_allclose(many_grad, one_grad, atol=TOLERANCE)


def test_shorter_documents_meet_the_first_components():
    rows = batch()
    cfg = DistillConfig(w_mse=0.0, w_cos=0.0, w_kl=1.0, w_rank=1.0)
    short = dict(rows, top_emb=rows["top_emb"][..., :8], sample_emb=rows["sample_emb"][..., :8])
    cut, _ = total_loss(rows["student_raw"], short, cfg)
    both = dict(short, teacher_raw=rows["teacher_raw"][:, :8])
    expected, _ = total_loss(rows["student_raw"][:, :8], both, cfg)
    assert cut == pytest.approx(float(expected), rel=TOLERANCE)
    # As one of two Matryoshka sizes.
    loss = partial(stage2_loss, cfg=cfg, ids=(rows["top_ids"], rows["sample_ids"]))
    vectors = [rows[k] for k in ("student_raw", "teacher_raw", "top_emb", "sample_emb")]
    mean, _ = matryoshka(loss, (8, 16))(*vectors)
    whole, _ = total_loss(rows["student_raw"], rows, cfg)
    assert mean == pytest.approx((float(expected) + float(whole)) / 2, rel=TOLERANCE)


def test_what_a_config_needs():
    assert not needs_documents(DistillConfig())
    for name in ("w_kl", "w_margin", "w_rank"):
        assert needs_documents(DistillConfig(**{name: 0.1}))
    for weights in ({"w_kl": -1.0}, {"w_mse": 0.0, "w_cos": 0.0}):
        with pytest.raises(UserError, match="no weight below 0, and one above"):
            check_weights(DistillConfig(**weights))
