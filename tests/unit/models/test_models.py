"""The towers: against plain numpy forwards, under masks, remat and bfloat16; config errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util
from plain_forward import numpy_bert, numpy_decoder
from small_towers import BERT, DECODER, define, random_params

from scalingnote_jax.config import BertShape, DecoderShape
from scalingnote_jax.devices.sharding import RULES
from scalingnote_jax.models.bodies import body_blueprint
from scalingnote_jax.models.layers import ops, stack
from scalingnote_jax.models.layers.pooling import pool
from scalingnote_jax.models.tower import TowerDef, normalise

SHAPES = [pytest.param(DECODER, id="decoder"), pytest.param(BERT, id="bert")]
POOLED = [
    pytest.param(DECODER, "last", id="decoder-last"),
    pytest.param(BERT, "mean", id="bert-mean"),
]


def run(tower: TowerDef, params: Any, tokens: Any, mask: Any) -> np.ndarray:
    return np.asarray(jax.jit(tower.apply)(params, tokens, mask))


def random_texts(rows: int = 4, length: int = 16, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and mask; the first row fills the length, the last has one token."""
    rng = np.random.default_rng(seed)
    lengths = np.array([length, *rng.integers(2, length, rows - 2), 1])
    mask = np.arange(length) < lengths[:, None]
    return rng.integers(0, 50, (rows, length)).astype(np.int32), mask


@pytest.mark.parametrize(
    ("shape", "forward", "pooling"),
    [
        pytest.param(DECODER, numpy_decoder, "mean", id="decoder-mean"),
        pytest.param(DECODER, numpy_decoder, "last", id="decoder-last"),
        pytest.param(replace(DECODER, qkv_bias=True), numpy_decoder, "mean", id="qwen2"),
        pytest.param(BERT, numpy_bert, "mean", id="bert-mean"),
        pytest.param(BERT, numpy_bert, "cls", id="bert-cls"),
    ],
)
def test_equals_a_plain_forward(shape: Any, forward: Any, pooling: str) -> None:
    tower = define(shape, pooling=pooling)
    params = random_params(tower)
    tokens, mask = random_texts()
    given = run(tower, params, tokens, mask)
    for row in range(len(tokens)):
        hidden = forward(shape, params["body"], tokens[row][mask[row]])
        wanted = {"mean": hidden.mean(0), "last": hidden[-1], "cls": hidden[0]}[pooling]
        np.testing.assert_allclose(given[row], wanted, atol=1e-4)


@pytest.mark.parametrize(("shape", "pooling"), POOLED)
def test_padding_changes_nothing(shape: Any, pooling: str) -> None:
    tower = define(shape, pooling=pooling, projection=8)
    params = random_params(tower)
    tokens, mask = random_texts(length=16)
    short = run(tower, params, tokens, mask)
    for length in (32, 64):
        # What stands at the padding is a real id, and the tower's own pad id occurs in the text.
        more = np.full((len(tokens), length - 16), 7, np.int32)
        unseen = np.zeros(more.shape, bool)
        wide = run(tower, params, np.hstack([tokens, more]), np.hstack([mask, unseen]))
        np.testing.assert_allclose(wide, short, atol=1e-5)


@pytest.mark.parametrize(("shape", "pooling"), POOLED)
def test_a_row_without_tokens_is_finite(shape: Any, pooling: str) -> None:
    tower = define(shape, pooling=pooling, projection=8)
    params = random_params(tower)
    tokens, mask = random_texts()
    mask[1] = False

    def loss(params: Any) -> jax.Array:
        return jnp.sum(normalise(tower.apply(params, tokens, mask)) ** 3)

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    others = np.delete(run(tower, params, tokens, mask), 1, axis=0)
    alone = run(tower, params, np.delete(tokens, 1, axis=0), np.delete(mask, 1, axis=0))
    np.testing.assert_allclose(others, alone, atol=1e-5)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(DECODER, id="all"),
        pytest.param(replace(DECODER, window=4), id="window"),
        pytest.param(replace(DECODER, window=5, global_every=2), id="some-layers"),
    ],
)
def test_a_bidirectional_decoder_equals_a_plain_forward(shape: DecoderShape) -> None:
    tower = define(shape, pooling="cls", bidirectional=True)
    params = random_params(tower)
    tokens, mask = random_texts()
    given = run(tower, params, tokens, mask)
    for row in range(len(tokens)):
        hidden = numpy_decoder(shape, params["body"], tokens[row][mask[row]], causal=False)
        np.testing.assert_allclose(given[row], hidden[0], atol=1e-4)


def test_decoder_is_causal_and_bert_is_not() -> None:
    tokens, _ = random_texts(rows=2)
    changed = tokens.copy()
    changed[:, -1] = (changed[:, -1] + 1) % 50
    for shape, same in ((DECODER, True), (BERT, False)):
        early = [hidden_states(shape, t)[:, :-1] for t in (tokens, changed)]
        assert np.allclose(*early, atol=1e-6) == same


@cache
def forward_of(shape: DecoderShape | BertShape) -> Callable[..., jax.Array]:
    graphdef, _, _ = body_blueprint(shape)

    def forward(params: Any, tokens: Any) -> jax.Array:
        body: Any = nnx.merge(graphdef, params)
        return body(tokens, jnp.ones(tokens.shape, bool))

    return jax.jit(forward)


def hidden_states(shape: DecoderShape | BertShape, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(forward_of(shape)(random_params(define(shape))["body"], tokens))


def test_an_id_outside_the_table_is_not_a_vector() -> None:
    tokens, _ = random_texts(rows=2)
    tokens[0, 3] = 50
    for shape in (DECODER, BERT):
        assert np.isnan(hidden_states(shape, tokens)[0, 3]).all()
        assert np.isfinite(hidden_states(shape, tokens)[1]).all()


def test_pool_numbers() -> None:
    hidden = jnp.arange(12.0).reshape(2, 3, 2)  # rows [[0,1],[2,3],[4,5]] and [[6,7],[8,9],[10,11]]
    mask = jnp.array([[True, True, False], [True, True, True]])
    np.testing.assert_array_equal(pool(hidden, mask, "mean"), [[1, 2], [8, 9]])
    np.testing.assert_array_equal(pool(hidden, mask, "last"), [[2, 3], [10, 11]])
    np.testing.assert_array_equal(pool(hidden, mask, "cls"), [[0, 1], [6, 7]])


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_beginning_has_the_vector_that_it_has_alone(pooling: str) -> None:
    tower = define(DECODER, pooling=pooling, projection=8)
    params = random_params(tower)
    tokens, mask = random_texts()
    lengths = np.array([5, 1, 0, 1])  # the third text has no beginning
    beginnings = np.arange(16) < lengths[:, None]
    both = np.asarray(tower.apply(params, tokens, mask, beginnings=beginnings))
    whole = run(tower, params, tokens, mask)
    np.testing.assert_allclose(both[:, 0], whole, atol=1e-5)
    alone = run(tower, params, tokens, beginnings)
    np.testing.assert_allclose(both[[0, 1, 3], 1], alone[[0, 1, 3]], atol=1e-5)
    np.testing.assert_array_equal(both[2, 1], both[2, 0])
    # The same in one packed row: 6 tokens of the first text, all of a text of 3, padding.
    row = np.concatenate([tokens[0, :6], tokens[1, :3], np.zeros(3, np.int32)])[None]
    segments = np.repeat([1, 2, 0], [6, 3, 3])[None]
    ends = np.array([1] * 5 + [0] + [2] + [0] * 5)[None]
    packed = tower.apply(params, row, segments, None, 3, None, ends)
    assert packed.shape == (1, 3, 2, 8)
    np.testing.assert_allclose(packed[0, :2, 1], alone[:2], atol=1e-5)


def test_likelihood_equals_a_plain_forward() -> None:
    tower = define(DECODER, projection=8)
    params = random_params(tower)
    tokens, mask = random_texts()
    vectors = np.random.default_rng(2).normal(size=(4, 8)).astype(np.float32)
    given = tower.log_likelihood(params, vectors, tokens, mask)
    table = params["body"]["embedding"]["table"]
    for row in range(4):
        text = tokens[row][mask[row]]
        # The vector as one more token of the table, in front of the text.
        start = vectors[row] @ params["projection"].T
        embedding = {"table": np.concatenate([table, start[None]])}
        body = params["body"] | {"embedding": embedding}
        hidden = numpy_decoder(DECODER, body, np.concatenate([[50], text[:-1]]))
        logits = hidden @ table.T
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        np.testing.assert_allclose(given[row], log_probs[range(len(text)), text].mean(), atol=1e-4)


def test_normalise_numbers() -> None:
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(normalise(x), [[0.6, 0.8], [0, 0]], atol=1e-7)
    gradient = jax.grad(lambda x: normalise(x)[:, 0].sum())(x)
    np.testing.assert_allclose(gradient[0], [0.128, -0.096], atol=1e-6)  # (I - uuᵀ) / 5
    assert np.isfinite(gradient).all()


@pytest.mark.slow
def test_remat_and_unrolling_change_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, mask = random_texts()

    def gradient(remat: str, unroll_up_to: int) -> dict[str, Any]:
        monkeypatch.setattr(stack, "_UNROLL_UP_TO", unroll_up_to)
        tower = define(DECODER, num_layers=2, remat=remat, projection=8)

        def loss(params: Any) -> jax.Array:
            return jnp.sum(normalise(tower.apply(params, tokens, mask)) ** 3)

        return jax.jit(jax.grad(loss))(random_params(tower))

    plain = gradient("none", 0)
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(plain)) > 1e-3
    for remat, unroll_up_to in (("dots", 0), ("full", 2), ("offload", 0)):
        other = gradient(remat, unroll_up_to)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), other, plain)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_the_program_does_not_grow_with_depth(remat: str) -> None:
    tokens, mask = random_texts()

    def lines(num_layers: int) -> int:
        tower = define(replace(DECODER, num_layers=num_layers), remat=remat)

        def loss(params: Any) -> jax.Array:
            return jnp.sum(tower.apply(params, tokens, mask))

        return jax.jit(jax.grad(loss)).lower(tower.abstract()[0]).as_text().count("\n")

    assert lines(4) == lines(32) > 100


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_is_near(shape: Any) -> None:
    tokens, mask = random_texts()
    exact, rough = define(shape), define(shape, dtype="bfloat16")
    params = random_params(exact)
    a, b = (np.asarray(normalise(run(t, params, tokens, mask))) for t in (exact, rough))
    assert b.dtype == np.float32
    cosine = np.sum(a * b, axis=-1)
    assert (cosine > 0.999).all(), cosine
    assert not np.array_equal(a, b)


def test_one_trace_per_shape() -> None:
    traces = []

    def encode(tower: TowerDef, params: Any, tokens: Any, mask: Any) -> jax.Array:
        traces.append(tokens.shape)
        return tower.apply(params, tokens, mask)

    jitted = jax.jit(encode, static_argnums=0)
    params = random_params(define(DECODER))
    for length in (8, 16, 8, 16):
        # A tower made anew from an equal config is the same static argument.
        jitted(define(DECODER), params, *random_texts(length=length))
    assert traces == [(4, 8), (4, 16)]


@pytest.mark.parametrize("shape", SHAPES)
def test_abstract_is_what_init_makes(shape: Any) -> None:
    tower = define(shape, projection=8)
    shapes, axes = tower.abstract()
    assert jax.eval_shape(tower.init, 0) == shapes
    flat = traverse_util.flatten_dict(axes, sep="/")
    sizes = traverse_util.flatten_dict(shapes, sep="/")
    assert flat.keys() == sizes.keys()
    for path, names in flat.items():
        assert len(names) == len(sizes[path].shape), path
        assert set(names) <= RULES.keys(), path
        assert ("layers" in names) == ("/layers/" in path), path
    assert flat["body/layers/q"] == ("layers", "embed", "heads", "head")
    assert flat["projection"] == ("embed", "proj")


def test_projection() -> None:
    assert "projection" not in define(DECODER).abstract()[0]
    wide, deep = define(DECODER, projection=8), define(DECODER, projection=8, num_layers=1)

    def projection(tower: TowerDef, seed: int) -> np.ndarray:
        return np.asarray(jax.jit(lambda: tower.init(seed)["projection"])())

    a = projection(wide, 3)
    np.testing.assert_allclose(a.T @ a, np.eye(8), atol=1e-5)
    # The same on both sides, whatever their depth: cosines mean something from the first step on.
    np.testing.assert_array_equal(a, projection(deep, 3))
    np.testing.assert_array_equal(a, projection(define(BERT, projection=8), 3))
    assert not np.allclose(a, projection(wide, 4))
    assert (wide.dim, define(DECODER).dim) == (8, 24)


def test_random_weights() -> None:
    tower = define(DECODER, projection=8)
    params = tower.pretrained_params(5)
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(params))
    wanted = jax.jit(lambda: tower.init(5)["body"]["layers"]["q"])()
    np.testing.assert_allclose(params["body"]["layers"]["q"], wanted, atol=1e-7)
    # Variance 1 / fan-in; fan-in is 24 for q and 40 for down, whatever the number of layers.
    layers = params["body"]["layers"]
    assert np.std(layers["q"]) == pytest.approx(24**-0.5, rel=0.05)
    assert np.std(layers["down"]) == pytest.approx(40**-0.5, rel=0.05)
    assert np.std(params["body"]["embedding"]["table"]) == pytest.approx(0.02, rel=0.1)


def test_num_params_by_hand() -> None:
    # A layer: q and o 2·24·48, k and v 2·24·16, three of 24·40, two norms.
    layer = 2 * 24 * 48 + 2 * 24 * 16 + 3 * 24 * 40 + 2 * 24
    tower = define(DECODER, projection=8)
    assert tower.num_params(non_embedding=True) == 3 * layer + 24 + 24 * 8
    assert tower.num_params() == 3 * layer + 24 + 24 * 8 + 50 * 24


def test_parameters_of_another_tower_are_refused() -> None:
    tower = define(DECODER, projection=8)
    params = random_params(tower)
    del params["projection"]
    with pytest.raises(ValueError, match="projection"):
        tower.apply(params, *random_texts())


@pytest.mark.parametrize("shape", SHAPES)
def test_dropout_is_drawn_per_row_and_only_with_keys(shape: Any) -> None:
    tokens, mask = random_texts()
    plain, dropping = define(shape), define(shape, dropout=0.3)
    params = random_params(plain)
    keys = jax.random.split(jax.random.key(0), len(tokens))

    def noisy(rows: slice) -> np.ndarray:
        return np.asarray(dropping.apply(params, tokens[rows], mask[rows], keys=keys[rows]))

    np.testing.assert_array_equal(
        run(dropping, params, tokens, mask), run(plain, params, tokens, mask)
    )
    whole = noisy(slice(None))
    assert np.abs(whole - run(plain, params, tokens, mask)).max() > 0.01
    np.testing.assert_allclose(whole[2:], noisy(slice(2, None)), atol=1e-5)


def test_dropout_keeps_the_mean() -> None:
    x = jnp.ones((4, 50, 100))
    y = ops.dropout(x, 0.25, jax.random.split(jax.random.key(1), 4), place=0)
    np.testing.assert_allclose(np.unique(y), [0.0, 4 / 3], atol=1e-6)
    assert float(y.mean()) == pytest.approx(1.0, abs=0.02)
    assert not np.array_equal(y[0], y[1])


@pytest.mark.parametrize(
    ("x_shape", "weight_shape"), [((2, 3, 32), (32, 5)), ((2, 3, 4, 6), (4, 6, 5))]
)
def test_a_bfloat16_product_on_a_cpu_rounds_only_what_it_multiplies(
    x_shape: tuple[int, ...], weight_shape: tuple[int, ...]
) -> None:
    inputs, rng = len(weight_shape) - 1, np.random.default_rng(0)

    def integers(*shape: int) -> jax.Array:  # these, not their sums, are exact in bfloat16
        return jnp.asarray(rng.integers(-200, 201, shape), jnp.float32)

    def on_cpu(x: jax.Array, weight: jax.Array) -> jax.Array:
        return ops.linear(x, weight, jnp.bfloat16, inputs, platform="cpu")

    def exact(x: jax.Array, weight: jax.Array) -> jax.Array:
        return jnp.tensordot(x, weight, inputs)

    given = integers(*x_shape), integers(*weight_shape)
    (ours, our_back), (wanted, back) = jax.vjp(on_cpu, *given), jax.vjp(exact, *given)
    np.testing.assert_array_equal(ours, wanted)
    out = integers(*wanted.shape)
    for gradient, other in zip(our_back(out), back(out), strict=True):
        np.testing.assert_array_equal(gradient, other)
