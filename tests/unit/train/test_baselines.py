"""The paper's baselines: configs of the same code on equal terms, a run without stage 2 from its
first step to the search, and what a system cost.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from run_parts import first_stage

import scalingnote_jax
from scalingnote_jax.cli import main
from scalingnote_jax.config import Config, MeshConfig, replace
from scalingnote_jax.config.load import apply_overrides, load_config
from scalingnote_jax.config.stages import Stages
from scalingnote_jax.config.validate import validate
from scalingnote_jax.config.values import field_values
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.errors import UserError
from scalingnote_jax.evaluate.costs import _logged_secs, costs
from scalingnote_jax.models.flops import tower_flops
from scalingnote_jax.models.layers.params import nest
from scalingnote_jax.models.pair import Towers
from scalingnote_jax.models.tower import tower_def
from scalingnote_jax.systems import systems_of
from scalingnote_jax.text.contract import tokens_of, tower_tokenizer
from scalingnote_jax.vectors.encoder import unit_rows
from scalingnote_jax.workflow.workdir import Workdir

SYSTEMS = ("scalingnote", "twinbert", "scalingdoc", "scalingnote_refined", "static")


def config(name: str) -> Config:
    return load_config(name)


@pytest.mark.parametrize("name", SYSTEMS)
def test_terms_are_equal_field_by_field(name: str) -> None:
    """Pairs, negatives, examples, batches, optimizer, seeds, lengths and evaluation of stage 1 are
    those of ScalingNote; only the towers, and the stages after it, may differ.
    """
    ours, base = (field_values(config(n)) for n in (name, "scalingnote"))
    differs = {field for field in base if ours.get(field) != base[field]} - {"name"}
    allowed = {
        "scalingnote": (),
        "twinbert": ("teacher.", "distill.duration"),
        "scalingdoc": ("teacher.query.", "train.fit_query_projection", "distill.duration"),
        "scalingnote_refined": ("refine.",),
        "static": ("distill.student.num_layers", "distill.student.freeze"),
    }[name]
    assert all(field.startswith(allowed) for field in differs) if differs else not allowed
    assert all(
        ours[f"teacher.{side}.{field}"] == base[f"teacher.{side}.{field}"]
        for side in ("query", "doc")
        for field in ("weights", "projection", "pooling", "text.max_tokens", "text.prompt")
    )
    assert config(name).name == name


@pytest.mark.parametrize("asked", [(), ("student", "student_int8")])
def test_an_evaluation_without_a_row_is_refused_at_the_start(asked: tuple[str, ...]) -> None:
    twin = config("twinbert")
    with pytest.raises(UserError, match=r"--eval\.systems"):
        validate(replace(twin, eval=replace(twin.eval, systems=asked)))
    validate(replace(twin, eval=replace(twin.eval, systems=asked, runs=("other.trec",))))
    validate(twin)


def test_who_is_small_starts_from_the_same_weights() -> None:
    base, twin, doc = (config(n) for n in ("scalingnote", "twinbert", "scalingdoc"))
    small = base.distill.student
    assert small.num_layers == 4
    assert twin.teacher.query == doc.teacher.query == small
    assert replace(twin.teacher.doc, text=small.text) == small
    assert doc.teacher.doc == base.teacher.doc
    assert base.teacher.query.num_layers == 0  # all of them


def rows(config: Config) -> list[str]:
    found = systems_of(config.stages, config.eval.systems)
    return [config.stages.row_name(system.name) for system in found]


def test_which_stages_follow_from_a_config() -> None:
    base, twin = config("scalingnote"), config("twinbert")
    assert base.stages == Stages("scalingnote", trains=True, distills=True, refines=False)
    assert base.stages.shipped == "student"
    assert twin.stages == Stages("twinbert", trains=True, distills=False, refines=False)
    assert twin.stages.shipped == "teacher"
    assert config("scalingnote_refined").stages.refines
    assert not replace(config("scalingnote_refined"), distill=twin.distill).stages.refines
    assert rows(twin) == ["bm25", "twinbert"]
    assert rows(base) == ["bm25", "teacher", "student"]


def test_no_stage_2_from_the_command_line() -> None:
    base = config("scalingnote")
    assert not apply_overrides(base, ["--distill.duration="]).stages.distills
    with pytest.raises(UserError, match=r"--distill: a section; .*--distill\.duration="):
        apply_overrides(base, ["--distill=None"])


@pytest.fixture(scope="module")
def twin(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished workdir of the tiny config without stage 2."""
    workdir = tmp_path_factory.mktemp("twin") / "w"
    words = ["--distill.duration=", "--name=twinbert"]
    assert main(["run", str(tiny_config), f"--workdir={workdir}", *words]) == 0
    return workdir


@pytest.mark.slow
def test_a_run_without_stage_2(twin: Path) -> None:
    metrics = json.loads((twin / "eval" / "metrics.json").read_text())
    rows = {(row["system"], row["search"]) for row in metrics["rows"]}
    assert rows == {
        ("bm25", "lexical"),
        ("untrained", "exact"),
        ("twinbert", "exact"),
        ("twinbert", "scann"),
    }
    assert metrics["retention"] == {}
    assert not (twin / "student").exists()
    assert "twinbert" in (twin / "report.html").read_text()


@pytest.mark.slow
def test_its_query_tower_is_what_answers(
    twin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", str(twin), "topic3", "-k", "2"]) == 0
    assert "  1. " in capsys.readouterr().out
    model = scalingnote_jax.load(twin)
    vectors = model.encode_queries(["topic3", "amber"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    with pytest.raises(UserError, match="without stage 2"):
        scalingnote_jax.load(twin, int8=True)
    assert main(["export", str(twin), str(tmp_path / "out"), "--format", "hf"]) == 0
    assert "teacher query" in capsys.readouterr().err


@pytest.mark.slow
def test_steps_that_it_does_not_have(
    twin: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--distill.duration=", "--name=twinbert"]
    assert main(["distill", str(tiny_config), f"--workdir={twin}", *words]) == 2
    assert "distill: a config without this step" in capsys.readouterr().err
    assert main(["run", str(tiny_config), f"--workdir={twin}", *words, "--dry-run"]) == 0
    assert "student/" not in capsys.readouterr().err


def first_cosine(config: Config, workdir: Workdir) -> float:
    """Between the two towers' vectors of the training queries before the first step, mean."""
    collection = Collection.open(workdir.data)
    stage = first_stage(config, collection, workdir, make_mesh(MeshConfig()))
    state, towers = stage.prepared.place(stage.initial()), Towers(config.teacher)
    params = nest(state.params | state.frozen)
    texts = [("", q.text) for q in collection.queries if q.id in collection.qrels("train")]
    table = tokens_of(texts, config.teacher.query, tower_tokenizer(config.teacher.query))
    tokens = table.take(np.arange(len(texts)), 16)
    query, doc = (
        unit_rows(np.asarray(tower.apply(params[side], *tokens)))
        for side, tower in towers.sides.items()
    )
    return float((query * doc).sum(axis=1).mean())


@pytest.mark.slow
def test_towers_of_two_depths_start_near_each_other(twin: Path, tiny_config: Path) -> None:
    config = load_config(tiny_config)
    plain = replace(config, teacher=replace(config.teacher, query=config.distill.student))
    fitted = replace(plain, train=replace(plain.train, fit_query_projection=True))
    before, after = (first_cosine(c, Workdir(twin)) for c in (plain, fitted))
    assert after > 0.9
    assert after > before + 0.1
    bare = replace(fitted, teacher=replace(config.teacher, share=True))
    with pytest.raises(UserError, match=r"--train\.fit_query_projection: true without"):
        validate(bare)


def test_costs_of_a_finished_run(finished: Path, tiny_config: Path) -> None:
    metrics = json.loads((finished / "eval" / "metrics.json").read_text())
    cost = {row["system"]: row.get("cost") for row in metrics["rows"]}
    assert cost["bm25"] is None
    assert cost["untrained"] is None
    stages = cost["student"]["stages"]
    assert list(stages) == ["train", "encode", "distill"]
    assert (stages["train"]["steps"], stages["train"]["examples"]) == (20, 160)
    assert (stages["distill"]["steps"], stages["distill"]["examples"]) == (20, 160)
    assert stages["train"] == cost["teacher"]["stages"]["train"]
    for system in ("teacher", "student"):
        for key in ("flops", "secs"):
            parts = [stage[key] for stage in cost[system]["stages"].values()]
            assert all(part > 0 for part in parts)
            assert cost[system][key] == pytest.approx(sum(parts), abs=0.2)
    # Layers of 32·(32 + 16 + 16 + 32) + 3·32·64 weights on 16 tokens, 2 FLOPs each; attention over
    # 16 × 16 places of 4 heads of 8, twice; one projection of 32 × 16
    layer = 2 * 16 * (32 * 96 + 3 * 32 * 64) + 2 * 2 * 16 * 16 * 4 * 8
    student = layer + 2 * 32 * 16
    assert cost["student"]["query_flops"] == student
    assert cost["teacher"]["query_flops"] == 2 * layer + 2 * 32 * 16
    assert stages["encode"]["flops"] == 40 * (2 * layer + 2 * 32 * 16)
    config = load_config(tiny_config)
    texts = (stages["distill"]["flops"] - 160 * 3 * student) / cost["teacher"]["query_flops"]
    manifest = json.loads((finished / "embeddings/teacher-distill/manifest.json").read_text())
    assert texts == manifest["count"]
    assert tower_flops(tower_def(config.distill.student), 1).model == student
    assert "to make, PFLOP" in (finished / "report.html").read_text()


def test_no_costs_of_what_was_not_trained(tmp_path: Path) -> None:
    teacher = config("twinbert").teacher
    towers = SimpleNamespace(teacher=teacher, student_config=teacher.query)
    stages = config("twinbert").stages
    subject = SimpleNamespace(workdir=Workdir(tmp_path), stages=stages, towers=towers)
    assert costs(subject) == {}


def test_seconds_of_a_run_that_was_stopped_add_up() -> None:
    assert _logged_secs([{"secs": 3.0}, {"secs": 9.0}, {"secs": 4.0}, {"secs": 6.0}]) == 15.0
