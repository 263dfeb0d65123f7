"""Weights as codes and scales: what is lost, how they come from the disk, and towers that have
them: their vectors, memory, gradients, and what they are merged into.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import LLAMA_CONFIG, write_hf
from test_lora import MASK, TOKENS, memory_of_a_step

from scalingnote_jax.config import BertShape, DecoderShape, LoraConfig, MeshConfig, TowerConfig
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.devices.sharding import bytes_per_device, shardings_of
from scalingnote_jax.models.from_teacher import from_teacher
from scalingnote_jax.models.layers.params import flatten, nest
from scalingnote_jax.models.quantised import (
    Form,
    dequantise,
    integer_linear,
    linear,
    quantise,
    tiles,
)
from scalingnote_jax.models.tower import TowerDef, tower_def
from scalingnote_jax.models.weights.placing import place
from scalingnote_jax.models.weights.pretrained import StoredWeight
from scalingnote_jax.train.checkpoint import TrainingCheckpoints
from scalingnote_jax.train.state import TrainState

FORMS = get_args(Form)
# 128 inputs are two blocks of 64, 192 are three
DECODER = DecoderShape(vocab_size=50, hidden_size=128, intermediate_size=192, head_dim=32)
BERT = BertShape(vocab_size=50, hidden_size=128, intermediate_size=192)
# QLoRA's table (its appendix E), to four places
NF4 = [-1, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0]
NF4 += [0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1]


def define(base_dtype: Any, shape: Any = DECODER, rank: int = 2, **changes: Any) -> TowerDef:
    lora = LoraConfig(rank, alpha=6.0, base_dtype=base_dtype)
    return tower_def(TowerConfig("random", shape=shape, lora=lora, **changes))


def trained(tower: TowerDef) -> dict[str, Any]:
    """Parameters whose adapters add something, as JAX's arrays."""
    rng, params = np.random.default_rng(0), flatten(tower.pretrained_params(3))
    for path, x in params.items():
        if path.endswith("/b"):
            params[path] = (0.05 * rng.normal(size=x.shape)).astype(np.float32)
    return nest(jax.tree.map(jnp.asarray, params))


def cosines(a: Any, b: Any) -> np.ndarray:
    a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (np.asarray(a), np.asarray(b)))
    return np.sum(a * b, axis=-1)


def test_int8_is_off_by_half_a_step_at_most() -> None:
    weight = jnp.array([[1.0, 40.0], [-0.5, 0.0], [0.25, -20.0]])  # two channels of three inputs
    codes, scale = quantise(weight, (0,), "int8")
    assert (codes.dtype, scale.dtype) == (jnp.int8, jnp.float32)
    np.testing.assert_allclose(scale, [[1 / 127.5, 40 / 127.5]], rtol=1e-6)
    np.testing.assert_array_equal(codes, [[127, 127], [-64, 0], [32, -64]])
    weight = jax.random.normal(jax.random.key(0), (2, 96, 3, 16))
    codes, scale = quantise(weight, (1,), "int8")
    assert scale.shape == (2, 1, 3, 16)
    error = jnp.abs(dequantise(codes, scale) - weight)
    assert jnp.all(error <= 0.5001 * scale)
    assert jnp.max(error / scale) > 0.49


@pytest.mark.slow
def test_nf4_is_off_by_half_a_gap_of_its_table_at_most() -> None:
    blocks = jnp.stack([jnp.tile(jnp.array(NF4), 4) * s for s in (0.5, 4.0)]).reshape(128, 1)
    codes, scale = quantise(blocks, (0,), "nf4")  # two blocks of 64 inputs, one channel
    assert (codes.dtype, scale.dtype) == (jnp.int4, jnp.bfloat16)
    np.testing.assert_array_equal(scale, [[0.5], [4.0]])
    np.testing.assert_allclose(dequantise(codes, scale), blocks, atol=4.0 * 5e-5)
    weight = jax.random.normal(jax.random.key(0), (2, 4, 128, 16))  # [layers, H, K, E], as "o"
    codes, scale = quantise(weight, (1, 2), "nf4")
    assert scale.shape == (2, 4, 2, 16)
    largest = jnp.repeat(jnp.max(jnp.abs(weight.reshape(2, 4, 2, 64, 16)), axis=3), 64, axis=2)
    error = jnp.abs(dequantise(codes, scale) - weight) / largest
    # Between -1 and -0.6962; and bfloat16 rounds the scale by 2^-9 of itself.
    assert jnp.max(error) <= 0.1519 + 2**-9
    assert 0.05 < jnp.sqrt(jnp.mean(error**2)) / jnp.sqrt(jnp.mean((weight / largest) ** 2)) < 0.12


def test_what_shares_a_scale() -> None:
    assert tiles((28, 3584, 28, 128), (1,), "int8") == (1, 3584, 1, 1)
    assert tiles((28, 28, 128, 3584), (1, 2), "int8") == (1, 28, 128, 1)
    assert tiles((28, 3584, 28, 128), (1,), "nf4") == (1, 64, 1, 1)
    assert tiles((28, 28, 128, 3584), (1, 2), "nf4") == (1, 1, 64, 1)
    assert tiles((2, 100, 7), (1,), "nf4") == (1, 100, 1)  # not whole blocks of 64: one


@pytest.mark.parametrize("form", FORMS)
def test_a_product_and_its_gradient_are_those_of_the_weight(form: Form) -> None:
    keys = jax.random.split(jax.random.key(0), 2)
    weight = jax.random.normal(keys[0], (4, 64, 24)) / 16  # [H, K, E]
    x = jax.random.normal(keys[1], (3, 5, 4, 64))
    codes, scale = quantise(weight, (0, 1), form)

    def of_codes(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(linear(x, codes, scale, jnp.float32, 2, None)))

    def of_weight(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(jnp.einsum("blhk,hke->ble", x, dequantise(codes, scale))))

    given, wanted = jax.value_and_grad(of_codes)(x), jax.value_and_grad(of_weight)(x)
    np.testing.assert_allclose(given[0], wanted[0], rtol=1e-5)
    np.testing.assert_allclose(given[1], wanted[1], atol=1e-5)


def test_a_product_of_integers_by_hand() -> None:
    # qwix: the largest number is 127.5 times the scale, and code 127
    x = jnp.asarray([[127.5, -1.0, 0.4], [0.0, 1.275, 0.64]])  # scales 1 and 0.01; 0.4 is code 0
    weight = jnp.asarray([[127.5, 0.0], [-64.0, 255.0], [0.0, -100.0]])  # scales 1 and 2
    codes, scale = quantise(weight, (0,), "int8")
    wanted = [[127 * 127 + 64, -127 * 2], [-127 * 64 * 0.01, (127 * 127 - 64 * 50) * 0.02]]
    np.testing.assert_allclose(integer_linear(x, codes, scale, 1), wanted, rtol=1e-5)


@pytest.mark.parametrize(("form", "per_weight"), [("int8", 1 + 4 / 128), ("nf4", 0.5 + 2 / 64)])
def test_bytes_of_a_tower(form: Any, per_weight: float) -> None:
    tower = define(form, projection=8)
    shapes, axes = map(flatten, tower.abstract())
    spread = shardings_of(shapes, axes, make_mesh(MeshConfig(), jax.devices()[:1]))
    size = {path: bytes_per_device(x, spread[path]) for path, x in shapes.items()}
    q = "body/layers/q"
    assert size[q] + size["body/layers/scale/q"] == per_weight * 2 * 128 * 4 * 32
    assert axes["body/layers/scale/q"] == (
        ("layers", None, "heads", "head")
        if form == "int8"
        else ("layers", "blocks", "heads", "head")
    )
    assert shapes["body/embedding/table"].dtype == shapes["body/final_norm"].dtype == jnp.bfloat16
    assert tower.num_params() == define("float32", projection=8).num_params()
    # XLA packs two codes of nf4 into a byte, also on CPUs.
    compiled = jax.jit(lambda x: x).lower(shapes[q]).compile().memory_analysis()
    assert compiled.argument_size_in_bytes == size[q]


@pytest.mark.slow
def test_from_the_disk_to_the_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of a mesh are those of the whole, and at no time is more than a layer in floats."""
    e, f, h, k = 128, 192, 4, 32
    sizes = {"hidden_size": e, "intermediate_size": f, "head_dim": k, "vocab_size": 48}
    of_layer = {"input_layernorm": (e,), "post_attention_layernorm": (e,), "mlp.gate_proj": (f, e)}
    of_layer |= {"mlp.up_proj": (f, e), "mlp.down_proj": (e, f), "self_attn.q_proj": (h * k, e)}
    of_layer |= {"self_attn.o_proj": (e, h * k)}
    of_layer |= {f"self_attn.{name}_proj": (2 * k, e) for name in "kv"}
    shapes = {f"layers.{i}.{name}.weight": s for i in range(3) for name, s in of_layer.items()}
    shapes |= {"embed_tokens.weight": (48, e), "norm.weight": (e,)}
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    ref = write_hf(tmp_path / "m", LLAMA_CONFIG | sizes, tensors)
    largest, read = [0], StoredWeight.read

    def watched(self: StoredWeight, indices: Any) -> list[np.ndarray]:
        parts = read(self, indices)
        if self.dtype == np.float32:
            largest[0] = max(largest[0], *(p.size for p in parts))
        return parts

    monkeypatch.setattr(StoredWeight, "read", watched)
    plain = tower_def(TowerConfig(ref)).pretrained_params(0)["body"]["layers"]
    for form in FORMS:
        largest[0] = 0
        tower = tower_def(TowerConfig(ref, lora=LoraConfig(rank=1, base_dtype=form)))
        stored, axes = flatten(tower.stored_params(0)), flatten(tower.abstract()[1])
        # 32 of 128 inputs, 96 of 192: blocks are cut
        mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
        placed = place(stored, shardings_of(flatten(tower.abstract()[0]), axes, mesh))
        assert {p: (x.shape, x.dtype) for p, x in placed.items()} == {
            p: (x.shape, x.dtype) for p, x in flatten(tower.abstract()[0]).items()
        }
        for name in ("q", "o", "down"):
            inputs = (1, 2) if name == "o" else (1,)
            codes, scale = quantise(jnp.asarray(plain[name]), inputs, form)
            np.testing.assert_array_equal(placed[f"body/layers/{name}"], codes)
            np.testing.assert_array_equal(placed[f"body/layers/scale/{name}"], scale)
        assert placed["body/layers/q"].addressable_shards[0].data.shape == (3, 32, 2, 32)
        assert largest[0] == e * f


@pytest.mark.slow
@pytest.mark.parametrize("shape", [DECODER, BERT])
def test_vectors_are_close_to_those_of_the_float32_tower(shape: Any) -> None:
    plain = tower_def(TowerConfig("random", shape=shape))
    wanted = jax.jit(plain.apply)(plain.init(3), TOKENS, MASK)
    # A weight is off by e of itself (0.0066 and 0.093 for normal ones), so a product's cosine is
    # about 1 - e²/2: 14 of them, seven in each of two layers, lose 0.0003 and 0.06 at most.
    for form, least in (("int8", 0.9997), ("nf4", 0.94)):
        tower = define(form, shape)
        params = tower.pretrained_params(3)
        out = jax.jit(tower.apply)(params, TOKENS, MASK)
        assert out.dtype == jnp.float32
        assert np.min(cosines(out, wanted)) > least
        assert np.min(cosines(out, wanted)) < 1 - 1e-6  # codes, and not the weights themselves


@pytest.mark.slow
@pytest.mark.parametrize("shape", [DECODER, BERT])
@pytest.mark.parametrize("form", FORMS)
def test_merged_weights_give_the_same_vectors(shape: Any, form: Form) -> None:
    tower = define(form, shape, projection=8)
    params = trained(tower)
    plain, merged = tower.merged(params)
    assert flatten(merged).keys() == flatten(plain.abstract()[0]).keys()
    assert {x.dtype for x in flatten(merged).values()} == {jnp.dtype("float32")}
    np.testing.assert_allclose(
        jax.jit(plain.apply)(merged, TOKENS, MASK),
        jax.jit(tower.apply)(params, TOKENS, MASK),
        atol=1e-4,
    )
    assert (plain, merged) == plain.merged(merged)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("remat", ["none", "full"])
def test_gradients_are_those_of_the_dequantised_base(form: Form, remat: Any) -> None:
    tower, floats = define(form, remat=remat), define("float32", remat=remat)
    params = flatten(trained(tower))
    wide = {p: x.astype(jnp.float32) for p, x in params.items() if "/scale/" not in p}
    for path, scale in params.items():
        if "/scale/" in path:
            path = path.replace("/scale/", "/")
            wide[path] = dequantise(params[path], scale)

    def loss(tower: TowerDef, frozen: Any, adapters: Any) -> jax.Array:
        return jnp.sum(jnp.sin(tower.apply(nest(frozen | adapters), TOKENS, MASK)))

    adapters = {path: x for path, x in params.items() if "/lora/" in path}
    given = jax.jit(jax.grad(partial(loss, tower, params)))(adapters)
    wanted = jax.jit(jax.grad(partial(loss, floats, wide)))(adapters)
    for path, x in given.items():
        assert np.abs(x).max() > 1e-3
        np.testing.assert_allclose(x, wanted[path], atol=1e-5 * max(1, np.abs(x).max()))


@pytest.mark.slow
def test_a_few_steps_lower_the_loss() -> None:
    """Adapters on the codes learn to give the vectors of the tower before it was quantised."""
    tower, plain = define("nf4", rank=8), tower_def(TowerConfig("random", shape=DECODER))
    wanted = jax.jit(plain.apply)(plain.init(3), TOKENS, MASK)
    params = flatten(tower.pretrained_params(3))
    tx = optax.adam(3e-3)
    frozen = {path: x for path, x in params.items() if re.search(tower.freeze[0], path)}
    learned = {path: x for path, x in params.items() if path not in frozen}
    assert {p.split("/")[2] for p in learned} == {"lora"}

    @jax.jit
    def step(learned: Any, state: Any) -> tuple[Any, Any, jax.Array]:
        def loss(learned: Any) -> jax.Array:
            return jnp.mean((tower.apply(nest(frozen | learned), TOKENS, MASK) - wanted) ** 2)

        value, grads = jax.value_and_grad(loss)(learned)
        updates, state = tx.update(grads, state)
        return optax.apply_updates(learned, updates), state, value

    state, losses = tx.init(learned), []
    for _ in range(12):
        learned, state, value = step(learned, state)
        losses.append(float(value))
    assert losses[-1] < losses[0] / 2


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "full"])
def test_no_gradient_of_the_base_and_one_layer_whole(remat: str) -> None:
    """Against adapters on a float32 base, which has no gradients either (test_lora): what a step
    holds beside its state is not larger by more than two of eight layers.
    """
    body, moments, temporaries = memory_of_a_step(LoraConfig(rank=2), remat)
    quantised = memory_of_a_step(LoraConfig(rank=2, base_dtype="int8"), remat)
    assert quantised[0] < 0.3 * body
    assert quantised[1] == moments
    assert quantised[2] - temporaries < body / 4


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_and_another_mesh(form: Form, tmp_path: Path) -> None:
    tower = define(form)
    shapes, axes = map(flatten, tower.abstract())
    state, spread = (
        TrainState(jnp.int32(3), {}, part, {"m": {}})  # type: ignore[arg-type]
        for part in (
            flatten(trained(tower)),
            shardings_of(shapes, axes, make_mesh(MeshConfig(fsdp=4, tensor=2))),
        )
    )
    checkpoints = TrainingCheckpoints(tmp_path)
    checkpoints.save(state, 3, {"inputs": "x"})
    restored = checkpoints.restore_params(3, shapes, spread.frozen)
    checkpoints.close()
    for path, x in state.frozen.items():
        assert restored[path].dtype == x.dtype
        np.testing.assert_array_equal(restored[path], x)


@pytest.mark.slow
def test_a_student_takes_the_layers_of_a_quantised_teacher() -> None:
    teacher = define("nf4")
    cfg = TowerConfig("teacher:first", shape=DECODER, lora=LoraConfig(1, base_dtype="int8"))
    student = TowerDef(cfg, replace(DECODER, num_layers=1))
    params = trained(teacher)
    taken = jax.jit(partial(from_teacher, student, teacher))(params)
    _, merged = teacher.merged(params)
    codes, scale = quantise(merged["body"]["layers"]["q"][:1], (1,), "int8")
    assert np.abs(taken["body/layers/q"].astype(int) - codes.astype(int)).max() <= 1
    np.testing.assert_allclose(taken["body/layers/scale/q"], scale, rtol=1e-5)
    assert student.stored_params(0, taken).keys() == student.abstract()[0].keys()
