"""Title-specific query prediction: both terms against plain computations, and in steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from run_parts import first_stage

from scalingnote_jax.config import Config, DecoderShape, MeshConfig, TextConfig, replace
from scalingnote_jax.config.load import load_config
from scalingnote_jax.config.validate import validate
from scalingnote_jax.data.collection import Collection
from scalingnote_jax.data.dataset import build_dataset
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import UserError
from scalingnote_jax.losses.contrastive import contrastive_loss
from scalingnote_jax.models.layers.params import nest
from scalingnote_jax.models.pair import Towers
from scalingnote_jax.models.tower import normalise
from scalingnote_jax.plan.compile import batch_shapes
from scalingnote_jax.text.contract import tower_tokenizer
from scalingnote_jax.text.prompts import render
from scalingnote_jax.train.loop import Stage
from scalingnote_jax.train.state import TrainState
from scalingnote_jax.workflow.workdir import Workdir

MESHES = {"one": MeshConfig(data=1), "eight": MeshConfig(data=2, fsdp=2, tensor=2)}
PROMPT = "{title} topic0 {text}"


@pytest.fixture(scope="module")
def config(tiny_config: Path) -> Config:
    """One layer; 16 queries × 2 documents a step; a document's title is two words."""
    config = load_config(tiny_config)
    teacher = config.teacher
    text = TextConfig(max_tokens=16, buckets=(4, 8, 16))
    query = replace(teacher.query, text=text, remat="full", num_layers=1)
    doc = replace(query, text=replace(text, prompt=PROMPT))
    train = replace(config.train, batch_size=16, bucket_window=1)
    return replace(config, teacher=replace(teacher, query=query, doc=doc), train=train)


@pytest.fixture(scope="module")
def workdir(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Workdir:
    workdir = Workdir(tmp_path_factory.mktemp("titles"))
    build_dataset(config.data, workdir.data)
    return workdir


def change(config: Config, **train: Any) -> Config:
    return replace(config, train=replace(config.train, **train))


def built(config: Config, workdir: Workdir, mesh: str) -> Stage:
    devices = jax.devices()[:1] if mesh == "one" else None
    made = mesh_lib.make_mesh(MESHES[mesh], devices)
    return first_stage(config, Collection.open(workdir.data), workdir, made)


def one_step(
    config: Config, workdir: Workdir, mesh: str = "one"
) -> tuple[TrainState, dict[str, float]]:
    """The state and the means of the metrics after step 0."""
    stage = built(config, workdir, mesh)
    state = stage.prepared.place(stage.initial())
    batch = mesh_lib.put_batch(stage.sampler.batch(0), stage.prepared.mesh)
    state, metrics = stage.step(state, batch)
    return state, {name: float(total / count) for name, (total, count) in metrics.items()}


def same_moments(a: TrainState, b: TrainState) -> None:
    for x, y in zip(*(jax.tree.leaves(s.opt_state[1][0].mu) for s in (a, b)), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.fixture(scope="module")
def plain(config: Config, workdir: Workdir) -> tuple[TrainState, dict[str, float]]:
    return one_step(config, workdir)


@pytest.fixture(scope="module")
def with_titles(config: Config, workdir: Workdir) -> tuple[TrainState, dict[str, float]]:
    return one_step(change(config, title_prediction="contrastive", w_title=0.5), workdir)


@pytest.fixture(scope="module")
def with_words(config: Config, workdir: Workdir) -> tuple[TrainState, dict[str, float]]:
    return one_step(change(config, title_prediction="generative", w_title=0.5), workdir)


@pytest.mark.slow
def test_the_contrastive_term_is_the_loss_of_titles_alone(
    config: Config, workdir: Workdir, plain: Any, with_titles: Any
) -> None:
    stage = built(config, workdir, "one")
    params = nest({path: np.asarray(x) for path, x in _initial(stage).items()})
    collection = Collection.open(workdir.data)
    towers, tokenizer = Towers(config.teacher), tower_tokenizer(config.teacher.doc)
    _, doc_rows = stage.sampler.rows(0)  # type: ignore[attr-defined]
    batch, apply = stage.sampler.batch(0), jax.jit(towers.doc.apply)

    def title(row: int) -> np.ndarray:  # a document that ends where its text would begin
        prompt = render(config.teacher.doc.text, collection.documents[int(row)].title, "")
        ids = np.array(tokenizer.encode([prompt], 16))
        return np.asarray(apply(params["doc"], ids, np.ones(ids.shape, bool)))[0]

    vectors = {row: title(row) for row in np.unique(doc_rows)}
    docs = np.stack([[vectors[row] for row in rows] for rows in doc_rows])
    queries = jax.jit(towers.query.apply)(
        params["query"], batch["query_tokens"], batch["query_mask"]
    )
    total, _ = contrastive_loss(
        normalise(queries),
        normalise(docs),
        query_ids=batch["query_ids"],
        doc_ids=batch["doc_ids"],
        positive_ids=batch["positive_ids"],
        scale=1 / config.train.temperature,
        symmetric=True,
    )
    _, metrics = with_titles
    assert metrics["title_loss"] == pytest.approx(float(total) / 16, abs=1e-4)
    expected = plain[1]["loss"] + 0.5 * metrics["title_loss"]
    assert metrics["loss"] == pytest.approx(expected, abs=1e-4)


def _initial(stage: Stage) -> dict[str, Any]:
    state = stage.prepared.place(stage.initial())
    return state.params | state.frozen


@pytest.mark.slow
def test_the_generative_term_is_the_likelihood_of_the_queries(
    config: Config, workdir: Workdir, plain: Any, with_words: Any
) -> None:
    stage = built(config, workdir, "one")
    params, batch = nest(_initial(stage)), stage.sampler.batch(0)
    doc = Towers(config.teacher).doc
    tokens, mask = batch["doc_tokens"][:, 0], batch["doc_mask"][:, 0]
    vectors = jax.jit(doc.apply)(params["doc"], tokens, mask)
    likelihood = jax.jit(doc.log_likelihood)(
        params["doc"], vectors, batch["query_tokens"], batch["query_mask"]
    )
    _, metrics = with_words
    assert metrics["title_loss"] == pytest.approx(-float(likelihood.mean()), abs=1e-4)
    expected = plain[1]["loss"] + 0.5 * metrics["title_loss"]
    assert metrics["loss"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["contrastive", "generative"])
def test_packed_in_chunks_on_a_mesh(
    config: Config, workdir: Workdir, how: str, request: pytest.FixtureRequest
) -> None:
    name = {"contrastive": "with_titles", "generative": "with_words"}[how]
    expected, metrics = request.getfixturevalue(name)
    options = {"pack_documents": True, "encode_chunks": 2, "loss": "blockwise"}
    other = change(config, title_prediction=how, w_title=0.5, **options)
    state, given = one_step(other, workdir, "eight")
    assert given == pytest.approx(metrics, abs=1e-4)
    same_moments(state, expected)


@pytest.mark.slow
def test_without_weight_the_step_is_the_plain_one(
    config: Config, workdir: Workdir, plain: Any
) -> None:
    weightless = change(config, title_prediction="contrastive", w_title=0.0)
    state, metrics = one_step(weightless, workdir)
    assert metrics["loss"] == pytest.approx(plain[1]["loss"], abs=1e-5)
    same_moments(state, plain[0])


@pytest.mark.parametrize("packed", [False, True])
def test_a_batch_has_titles_only_where_they_are_asked_for(
    config: Config, workdir: Workdir, packed: bool
) -> None:
    plain = change(config, pack_documents=packed)
    before = built(plain, workdir, "one").sampler.batch(0)
    assert before.keys() == batch_shapes(plain.train, plain.teacher).keys()
    assert "doc_beginnings" not in before
    wanted = change(plain, title_prediction="contrastive")
    batch = built(wanted, workdir, "one").sampler.batch(0)
    shapes = batch_shapes(wanted.train, wanted.teacher)
    assert batch.keys() == before.keys() | {"doc_beginnings"} == shapes.keys()
    # "about WORD topic0": three tokens of each of 32 documents.
    assert (batch["doc_beginnings"] > 0).sum() == 3 * 32
    segments = batch["doc_segments" if packed else "doc_mask"]
    assert ((batch["doc_beginnings"] == segments) | (batch["doc_beginnings"] == 0)).all()
    generative = change(plain, title_prediction="generative")
    assert built(generative, workdir, "one").sampler.batch(0).keys() == before.keys()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["contrastive", "generative"])
def test_the_term_falls(config: Config, workdir: Workdir, how: str) -> None:
    stage = built(change(config, title_prediction=how, w_title=0.5), workdir, "one")
    state, losses = stage.prepared.place(stage.initial()), []
    for step in range(20):
        batch = mesh_lib.put_batch(stage.sampler.batch(step % 2), stage.prepared.mesh)
        state, metrics = stage.step(state, batch)
        losses.append(float(metrics["title_loss"][0] / metrics["title_loss"][1]))
    assert np.mean(losses[-2:]) < np.mean(losses[:2]) - 0.2


def build_if_valid(config: Config, workdir: Workdir) -> None:
    validate(config)
    built(config, workdir, "one")


def test_what_cannot_work_is_refused(config: Config, workdir: Workdir) -> None:
    def tower(side: str, **changes: Any) -> Config:
        towers = replace(
            config.teacher, **{side: replace(getattr(config.teacher, side), **changes)}
        )
        return replace(config, teacher=towers)

    text = config.teacher.doc.text
    cases = [
        (config, {"title_prediction": "titles"}, "one of ('none', 'contrastive', 'generative')"),
        (config, {"title_prediction": "generative", "w_title": -1.0}, "--train.w_title: -1.0"),
        (tower("doc", bidirectional=True), {"title_prediction": "generative"}, "a causal decoder"),
        (
            tower("doc", text=replace(text, prompt="{text} {title}")),
            {"title_prediction": "contrastive"},
            "expected {title} before {text}",
        ),
        (
            tower("query", tokenizer="bytes", shape=DecoderShape()),
            {"title_prediction": "generative"},
            "'generative', with two tokenizers",
        ),
    ]
    for wrong, options, message in cases:
        with pytest.raises(UserError) as error:
            build_if_valid(change(wrong, **options), workdir)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
