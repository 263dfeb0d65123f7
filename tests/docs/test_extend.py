"""The pages of docs/extend, followed: their code is run, their edits are applied to the files that
they name. A page that no longer fits the code fails here.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import LLAMA_CONFIG, E, H, K, llama_tensors, write_hf

from scalingnote_jax import systems
from scalingnote_jax.config import DataConfig, DistillConfig, TextConfig, TowerConfig
from scalingnote_jax.data import dataset
from scalingnote_jax.errors import UserError
from scalingnote_jax.models.tower import tower_def
from scalingnote_jax.models.weights import families

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "scalingnote_jax"


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    text = (ROOT / "docs" / "extend" / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def edited(path: str, diff: str) -> str:
    """The text of a file of the package with a page's edit; what it takes out, and what stands
    around it, must be there just once.
    """
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] != "+")
    after = "".join(line[1:] for line in lines if line[0] != "-")
    source = (PACKAGE / path).read_text()
    assert source.count(before) == 1, f"{path} does not have, just once:\n{before}"
    return source.replace(before, after)


def as_module(name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The source, imported under a name for the length of the test."""
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(source, name, "exec"), module.__dict__)
    return module


def test_a_loss_term(monkeypatch: pytest.MonkeyPatch) -> None:
    (function,) = blocks("loss-term.md", "python")
    weight, place = blocks("loss-term.md", "diff")
    config = as_module("followed.training", edited("config/training.py", weight), monkeypatch)
    source = f"{edited('losses/distill.py', place)}\n\n{function}"
    loss = as_module("followed.distill", source, monkeypatch)

    # Lengths 3 and 5 against 1 and 1; the directions are the same, so nothing else is wrong
    student = jnp.array([[3.0, 0.0], [3.0, 4.0]])
    teacher = jnp.array([[1.0, 0.0], [0.6, 0.8]])
    np.testing.assert_allclose(loss.norm_error(student, teacher), [4.0, 16.0], atol=1e-5)
    off = config.DistillConfig()
    total, sums = loss.stage2_loss(student, teacher, cfg=off)
    assert total == pytest.approx(0.0, abs=1e-5)
    assert "norm_error" not in sums
    on = dataclasses.replace(off, w_norm=0.5)
    total, sums = loss.stage2_loss(student, teacher, cfg=on)
    assert total == pytest.approx(10.0, abs=1e-5)
    assert sums["norm_error"] == pytest.approx(20.0, abs=1e-5)
    # d/ds 0.5·(‖s‖ − 1)² = (‖s‖ − 1)·s/‖s‖
    slope = jax.grad(lambda s: loss.stage2_loss(s, teacher, cfg=on)[0])(student)
    np.testing.assert_allclose(slope, [[2.0, 0.0], [2.4, 3.2]], atol=1e-5)
    assert {f.name for f in dataclasses.fields(on)} - {
        f.name for f in dataclasses.fields(DistillConfig)
    } == {"w_norm"}


def tsv_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "docs.tsv").write_text("d1\tCats\tsleep all day\nd2\t\tdogs bark\n")
    (folder / "queries.tsv").write_text("q1\tsleepy animals\nq2\tloud animals\n")
    (folder / "judged.tsv").write_text("train\tq1\td1\t2\ntest\tq2\td2\t1\ntest\tq2\td1\t0\n")
    return folder


def test_a_data_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = blocks("data-source.md", "python")
    choice, reader = blocks("data-source.md", "diff")
    config = as_module("followed.training", edited("config/training.py", choice), monkeypatch)
    assert "tsv" in get_args(get_type_hints(config.DataConfig)["source"])
    as_module("scalingnote_jax.data.sources.tsv", source, monkeypatch)
    followed = as_module(
        "followed.sources", edited("data/sources/__init__.py", reader), monkeypatch
    )
    monkeypatch.setattr(dataset, "open_source", followed.open_source)

    cfg = DataConfig(source="tsv", path=str(tsv_folder(tmp_path / "raw")))  # type: ignore[arg-type]
    dataset.build_dataset(cfg, tmp_path / "data")
    collection = dataset.Collection.open(tmp_path / "data")
    assert [(d.id, d.title, d.text) for d in collection.documents] == [
        ("d1", "Cats", "sleep all day"),
        ("d2", "", "dogs bark"),
    ]
    assert [(q.id, q.text) for q in collection.queries] == [
        ("q1", "sleepy animals"),
        ("q2", "loud animals"),
    ]
    assert collection.qrels("train") == {"q1": {"d1": 2}}
    assert collection.qrels("test") == {"q2": {"d2": 1, "d1": 0}}

    before = followed.open_source(cfg).fingerprint()
    judged = Path(cfg.path) / "judged.tsv"
    judged.write_text(judged.read_text() + "test\tq2\td3\t1\n")
    assert followed.open_source(cfg).fingerprint() != before
    with pytest.raises(UserError, match=r"judged\.tsv:4.*'d3'"):
        dataset.build_dataset(cfg, tmp_path / "data")
    judged.write_text("train\tq1\td1\tgood\n")
    with pytest.raises(UserError, match=r"judged\.tsv:1: the score 'good'"):
        dataset.build_dataset(cfg, tmp_path / "data")


@pytest.mark.slow
def test_a_tower_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks("tower-family.md", "python")
    known = dict(families.FAMILIES)
    monkeypatch.setattr(families, "FAMILIES", known)
    exec(compile(code, "tower-family.md", "exec"), vars(families))
    monkeypatch.delitem(vars(families), "_smallama")

    # Biases of queries add the same to every score of a head's query; zeros change nothing at all
    biases = {
        f"layers.{i}.self_attn.{x}_proj.bias": np.zeros(heads * K, np.float32)
        for i in range(LLAMA_CONFIG["num_hidden_layers"])
        for x, heads in (("q", H), ("k", 2), ("v", 2))
    }
    plain = vector(tmp_path / "llama", LLAMA_CONFIG, llama_tensors())
    ours = LLAMA_CONFIG | {"model_type": "smallama"}
    same = vector(tmp_path / "same", ours, llama_tensors() | biases)
    np.testing.assert_allclose(same, plain, atol=1e-5)
    value = "layers.0.self_attn.v_proj.bias"
    other = vector(tmp_path / "other", ours, llama_tensors() | biases | {value: biases[value] + 1})
    assert np.abs(other - plain).max() > 1e-2
    with pytest.raises(UserError, match="mlp_bias True"):
        vector(tmp_path / "refused", ours | {"mlp_bias": True}, llama_tensors() | biases)
    with pytest.raises(UserError, match="tensors missing: 9"):
        vector(tmp_path / "missing", ours, llama_tensors())


def vector(folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> np.ndarray:
    """[1, E], what a tower with these weights makes of three tokens."""
    write_hf(folder, config, tensors)
    text = TextConfig(max_tokens=4, buckets=(4,))
    tower = tower_def(TowerConfig(weights=str(folder), text=text))
    tokens = jnp.array([[5, 7, 11, 0]], jnp.int32)
    out = np.asarray(tower.apply(tower.pretrained_params(0), tokens, tokens > 0))
    assert out.shape == (1, E)
    return out


@pytest.mark.slow
def test_an_evaluated_system(
    finished: Path, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from run_parts import encoder, towers

    from scalingnote_jax.config import MeshConfig
    from scalingnote_jax.config.load import load_config
    from scalingnote_jax.devices.mesh import make_mesh
    from scalingnote_jax.evaluate.judged import Judged
    from scalingnote_jax.evaluate.rows import system_rows
    from scalingnote_jax.evaluate.subject import Subject
    from scalingnote_jax.vectors.encoder import Encoders
    from scalingnote_jax.vectors.store import VectorStore
    from scalingnote_jax.workflow.workdir import Workdir

    (entry,) = blocks("evaluated-system.md", "python")
    (choice,) = blocks("evaluated-system.md", "diff")
    names = as_module("followed.serving", edited("config/serving.py", choice), monkeypatch)
    system = eval(entry, vars(systems))
    assert system.name in get_args(names.SystemName)
    monkeypatch.setitem(systems.REGISTRY, system.name, system)

    config, workdir = load_config(tiny_config), Workdir(finished)
    wanted = dataclasses.replace(config.eval, systems=(system.name,))
    config = dataclasses.replace(config, eval=wanted)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    collection = dataset.Collection.open(workdir.data)
    subject = Subject.of(config, towers(config, workdir), collection, workdir)
    qrels = collection.qrels("test")
    queries = [q for q in collection.queries if q.id in qrels]
    judged = Judged.of(qrels, [q.id for q in queries], collection.doc_ids, config.seed)
    encoders = Encoders(subject.towers, subject.encode, mesh)
    exact, ann = system_rows(subject, encoders, queries, judged)
    assert (exact.name, ann.name) == ("untrained_query/exact", "untrained_query/scann")

    store = VectorStore.open(workdir.embeddings("teacher", "doc"))
    tower = encoder(config, workdir, "untrained", "query", mesh)
    scores = tower.unit(tower.encode([q.text for q in queries])) @ store.vectors().T
    for query, row in zip(queries, scores, strict=True):
        best = store.ids[int(row.argmax())]
        assert exact.run[query.id][0] == (best, pytest.approx(float(row.max()), abs=1e-5))


def test_every_page_is_followed() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "extend").glob("*.md")}
    here = textwrap.dedent(Path(__file__).read_text())
    assert pages == {page for page in pages if f'"{page}.md"' in here}
