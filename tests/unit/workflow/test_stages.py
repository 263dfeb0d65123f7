"""Both stages as a config builds them: what is compiled, what is in the state, which texts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from run_parts import first_stage, second_stage

from scalingnote_jax.config import Config, TextConfig, replace
from scalingnote_jax.config.load import load_config
from scalingnote_jax.config.validate import validate
from scalingnote_jax.data.augment.query_texts import query_texts
from scalingnote_jax.data.batches import iterate
from scalingnote_jax.data.dataset import Collection, build_dataset
from scalingnote_jax.devices.mesh import make_mesh, put_batch
from scalingnote_jax.errors import UserError
from scalingnote_jax.models.layers.params import Drawn, draw
from scalingnote_jax.models.pair import Towers
from scalingnote_jax.text.contract import tower_tokenizer
from scalingnote_jax.text.tokens import TokenTable
from scalingnote_jax.train import stage1
from scalingnote_jax.train.stage1 import contrastive_step
from scalingnote_jax.workflow.workdir import Workdir

STEPS = 12


@pytest.fixture(scope="module")
def config(tiny_config: Path) -> Config:
    """The tiny config with documents in buckets of two lengths."""
    config = load_config(tiny_config)
    doc = replace(config.teacher.doc, text=TextConfig(max_tokens=16, buckets=(10, 16)))
    window = replace(config.train, bucket_window=4)
    return replace(config, teacher=replace(config.teacher, doc=doc), train=window)


@pytest.fixture(scope="module")
def workdir(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Workdir:
    """A workdir with the collection built."""
    workdir = Workdir(tmp_path_factory.mktemp("stages"))
    build_dataset(config.data, workdir.data)
    return workdir


@pytest.fixture(scope="module")
def collection(workdir: Workdir) -> Collection:
    """The tiny collection."""
    return Collection.open(workdir.data)


@pytest.mark.slow
def test_one_compile_per_batch_shape(config, collection, workdir, monkeypatch):
    traces = []

    def counted(state, batch, **static):
        traces.append(tuple(x.shape for x in batch.values()))
        return contrastive_step(state, batch, **static)

    monkeypatch.setattr(stage1, "contrastive_step", counted)
    mesh = make_mesh(config.mesh)
    stage = first_stage(config, collection, workdir, mesh)
    state, shapes = stage.prepared.place(stage.initial()), set()
    for batch in iterate(stage.sampler, 0, STEPS):
        shapes.add((batch["query_tokens"].shape, batch["doc_tokens"].shape))
        state, _ = stage.step(state, put_batch(batch, mesh))
    assert len(shapes) == 2
    assert len(traces) == len(shapes)


def test_each_side_has_its_own_weights_unless_shared(config):
    paths = set(Towers(config.teacher).abstract()[0])
    assert {p.split("/")[0] for p in paths} == {"query", "doc", "log_scale"}
    shared = Towers(replace(config.teacher, share=True))
    params = shared.initial(0, 0.05)
    assert {p.split("/")[0] for p in params} == {"shared", "log_scale"}
    assert np.exp(params["log_scale"]) == pytest.approx(20.0, rel=1e-6)


@pytest.mark.slow
def test_both_sides_start_equal(config):
    params = Towers(config.teacher).initial(0, 0.05)
    params |= draw({path: x for path, x in params.items() if isinstance(x, Drawn)})
    for path, x in params.items():
        if path.startswith("query/"):
            np.testing.assert_array_equal(x, params[path.replace("query/", "doc/")])


def test_shared_towers_must_be_alike(config):
    other = replace(config.teacher.doc, shape=replace(config.teacher.doc.shape, num_layers=1))
    with pytest.raises(UserError, match=r"--teacher\.share"):
        Towers(replace(config.teacher, doc=other, share=True))
    with pytest.raises(UserError, match=r"same D"):
        Towers(replace(config.teacher, doc=replace(config.teacher.doc, projection=8)))


def test_distillation_learns_no_held_out_query(config, collection):
    texts = query_texts(config.distill, collection, 0).learned
    by_id = {q.id: q.text for q in collection.queries}
    assert len(texts) == len(set(texts))
    held_out = {by_id[q] for split in ("dev", "test") for q in collection.qrels(split)}
    assert not held_out & set(texts)
    assert {by_id[q] for q in collection.qrels("train")} - held_out <= set(texts)
    fewer = query_texts(replace(config.distill, max_queries=10), collection, 0).learned
    assert len(fewer) == 10
    assert set(fewer) < set(texts)


def test_sentences_are_the_first_of_each_document(config, collection):
    document = SimpleNamespace(title="", text="Cut a rope. Tie it!  Is it 3.5 m long? Yes.")
    stub = SimpleNamespace(queries=[], splits=(), documents=[document])
    for count, expected in (
        (1, ["Cut a rope."]),
        (3, ["Cut a rope.", "Tie it!", "Is it 3.5 m long?"]),
    ):
        cfg = replace(config.distill, queries=("sentences",), sentences_per_document=count)
        assert query_texts(cfg, stub, 0).learned == expected
    with pytest.raises(UserError, match="sentences_per_document"):
        validate(replace(config, distill=replace(config.distill, sentences_per_document=0)))


def test_stage_two_has_no_document_parameters(config, workdir):
    tokenizer = tower_tokenizer(config.distill.student)
    table = TokenTable.from_lists(tokenizer.encode([f"topic{i} cedar" for i in range(16)], 16))
    vectors = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    mesh = make_mesh(config.mesh)
    stage = second_stage(config, table, vectors, workdir, mesh)
    state = stage.prepared.abstract
    assert {p.split("/")[0] for p in state.params | state.frozen} == {"student"}
    batch = stage.sampler.batch(0)
    assert set(batch) == {"tokens", "mask", "teacher_raw"}
    # Each row's vector is the one of its own text.
    rows = stage.sampler.texts.rows(0)
    np.testing.assert_array_equal(batch["teacher_raw"], vectors[rows])
    with pytest.raises(UserError, match=r"distill\.student\.projection"):
        second_stage(config, table, vectors[:, :8], workdir, mesh)
