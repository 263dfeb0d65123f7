"""What a step declares is what its hash is made from and what it can read: over all fields of the
config, for every step of the method.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from scalingnote_jax import pipeline
from scalingnote_jax.config import Config, DecoderShape, TowerConfig, TowersConfig
from scalingnote_jax.config.neutral import is_neutral
from scalingnote_jax.config.values import field_values
from scalingnote_jax.devices.mesh import make_mesh
from scalingnote_jax.errors import UserError
from scalingnote_jax.run import tasks
from scalingnote_jax.workflow.engine import (
    Made,
    Output,
    Place,
    Settings,
    Step,
    Task,
    Undeclared,
    run_task,
    step,
)
from scalingnote_jax.workflow.workdir import Workdir, mark_done

STEPS = {name: found for name, found in vars(pipeline).items() if isinstance(found, Step)}
TOWER = TowerConfig(shape=DecoderShape())
CONFIG = Config("x", teacher=TowersConfig(query=TOWER, doc=TOWER))
FIELDS = sorted(field_values(CONFIG))


def another(value: Any) -> Any:
    """A value of the same kind that is not this one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, tuple):
        return (*value, "another")
    return 0.5 if value is None else f"{value} another"


def changed(config: Any, name: str) -> Any:
    """The config with another value in one field."""
    first, _, rest = name.partition(".")
    value = getattr(config, first)
    return replace(config, **{first: changed(value, rest) if rest else another(value)})


def is_declared(name: str, sections: tuple[str, ...]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:n]) in sections for n in range(1, len(parts) + 1))


def task_of(found: Step, folder: Path) -> Task:
    """The step with all that it may read in place; nothing from outside of the workdir."""
    reads = {}
    for name in found.reads:
        (folder / name).mkdir()
        mark_done(folder / name, "made", f"content of {name}")
        reads[name] = Task(found, folder / name, Workdir(folder))
    return Task(replace(found, outside=None), folder / "own", Workdir(folder), reads)


def test_the_method_has_these_steps() -> None:
    verbs = [found.verb for found in STEPS.values()]
    assert verbs == [
        "data",
        "mine",
        "mine",
        "train",
        "encode",
        "distill",
        "refine",
        "index",
        "eval",
    ]


@pytest.mark.parametrize("name", STEPS)
def test_a_declared_field_changes_the_hash_and_no_other_does(name: str, tmp_path: Path) -> None:
    found = STEPS[name]
    task = task_of(found, tmp_path)
    before = task.inputs(CONFIG)
    for field in FIELDS:
        differs = task.inputs(changed(CONFIG, field)) != before
        wanted = is_declared(field, found.sections) and not is_neutral(field)
        assert differs == wanted, field


@pytest.mark.parametrize("name", STEPS)
def test_another_output_of_a_step_that_is_read_changes_the_hash(name: str, tmp_path: Path) -> None:
    task = task_of(STEPS[name], tmp_path)
    before = task.inputs(CONFIG)
    for read in task.reads:
        mark_done(tmp_path / read, "made", "other content")
        assert task.inputs(CONFIG) != before, read
        mark_done(tmp_path / read, "made", f"content of {read}")
    assert task.inputs(CONFIG) == before


def read(settings: Any, name: str) -> Any:
    for part in name.split("."):
        settings = getattr(settings, part)
    return settings


@pytest.mark.parametrize("name", STEPS)
def test_what_is_not_declared_cannot_be_read(name: str) -> None:
    found = STEPS[name]
    settings = Settings(CONFIG, found.sections, found.verb)
    for field, value in field_values(CONFIG).items():
        if is_declared(field, found.sections):
            assert read(settings, field) == value
        else:
            with pytest.raises(Undeclared, match=f"{found.verb}.* which it does not declare"):
                read(settings, field)
    made = Made(dict.fromkeys(found.reads), found.verb)
    assert all(getattr(made, output) is None for output in found.reads)
    with pytest.raises(Undeclared, match="reads report, which it does not declare"):
        _ = made.report


@pytest.mark.parametrize(
    ("name", "field", "read"),
    [
        ("train", "distill.normalise", False),  # a start that is fitted has no part in stage 2
        ("refine", "eval.exact.storage", True),  # the search for its hard negatives
        ("refine", "mine.rounds", False),
        ("index", "eval.depth", True),  # one of the depths that it is tuned for
        ("index", "eval.metrics", False),
        ("distill", "refine.temperature", False),
    ],
)
def test_what_was_stale_or_redone_for_nothing(name: str, field: str, read: bool) -> None:
    assert is_declared(field, STEPS[name].sections) == read


@dataclass(frozen=True)
class Small:
    """A config of two fields."""

    size: int = 2
    name: str = "x"


def small_step(runs: list[Any], **changes: Any) -> Step:
    @step("small", (), ("size",), output=lambda folder: (folder / "made").read_text(), **changes)
    def make(made: Made, settings: Settings, place: Place) -> None:
        runs.append(settings.size)
        place.folder.mkdir(exist_ok=True)
        (place.folder / "made").write_text(str(settings.size))

    return make


def test_a_step_is_run_again_only_when_what_it_reads_has_changed(tmp_path: Path) -> None:
    runs: list[int] = []
    task, mesh = Task(small_step(runs), tmp_path / "own", Workdir(tmp_path)), make_mesh(CONFIG.mesh)
    for config in (Small(), Small(), Small(name="y"), Small(size=3), Small(size=3)):
        run_task(task, config, mesh)
    assert runs == [2, 3]
    assert task.output == Output(tmp_path / "own", "3")
    assert task.is_done(Small(size=3))
    assert not task.is_done(Small(size=2))


def test_a_step_that_fails_is_not_done(tmp_path: Path) -> None:
    @step("small", (), (), output=lambda folder: "")
    def reads_too_much(made: Made, settings: Settings, place: Place) -> None:
        _ = settings.size

    task = Task(reads_too_much, tmp_path / "own", Workdir(tmp_path))
    with pytest.raises(Undeclared, match="small reads size"):
        run_task(task, Small(), make_mesh(CONFIG.mesh))
    assert not (tmp_path / "own").exists()


def test_what_is_looked_at_is_not_hashed(tmp_path: Path) -> None:
    """Stage 2 without a term that compares scores does not wait for document vectors."""
    plain, scores = (
        replace(CONFIG, distill=replace(CONFIG.distill, w_kl=weight)) for weight in (0.0, 1.0)
    )
    cases = (plain, {"data", "train"}, {"documents"}), (scores, {"data", "train", "encode"}, set())
    for config, reads, looks in cases:
        distill = next(t for t in tasks(config, Workdir(tmp_path)) if t.step.verb == "distill")
        assert (set(distill.reads), set(distill.looks)) == (reads, looks)
    for verb in ("data", "teacher"):
        (tmp_path / verb).mkdir()
        mark_done(tmp_path / verb, "made", verb)
    distill = next(t for t in tasks(plain, Workdir(tmp_path)) if t.step.verb == "distill")
    before = distill.inputs(plain)
    assert distill.made().documents is None
    vectors = tmp_path / "embeddings" / "teacher-doc"
    vectors.mkdir(parents=True)
    mark_done(vectors, "made", "vectors")
    assert distill.made().documents == Output(vectors, "vectors")
    assert distill.inputs(plain) == before


def test_neutral_fields_are_fields() -> None:
    neutral = [name for name in FIELDS if is_neutral(name)]
    assert {"train.log_every", "mesh.fsdp", "teacher.query.remat", "train.loss_tile"} <= set(
        neutral
    )
    assert not {"train.batch_size", "train.accumulate", "seed", "eval.exact.storage"} & set(neutral)


def damage_size(path: Path) -> None:
    path.write_text("2 and more")


def damage_content(path: Path) -> None:
    path.write_text("3")


def damage_all(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("harm", [damage_size, damage_content, damage_all])
def test_what_was_damaged_is_made_again(
    harm: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs: list[int] = []
    task, mesh = Task(small_step(runs), tmp_path / "own", Workdir(tmp_path)), make_mesh(CONFIG.mesh)
    run_task(task, Small(), mesh)
    harm(tmp_path / "own" / "made")
    assert not task.is_done(Small())
    with pytest.raises(UserError, match=r"made .*; run `scalingnote small` again"):
        _ = task.whole_output
    run_task(task, Small(), mesh)
    assert (runs, (tmp_path / "own" / "made").read_text()) == ([2, 2], "2")
    assert "small: made again" in capsys.readouterr().err
    assert task.is_done(Small())


def test_a_copy_with_other_times_is_whole(tmp_path: Path) -> None:
    runs: list[int] = []
    task, mesh = Task(small_step(runs), tmp_path / "own", Workdir(tmp_path)), make_mesh(CONFIG.mesh)
    run_task(task, Small(), mesh)
    os.utime(tmp_path / "own" / "made", ns=(0, 0))
    assert task.is_done(Small())


def test_a_foreign_file_matters_only_where_it_would_be_read(tmp_path: Path) -> None:
    mesh = make_mesh(CONFIG.mesh)
    for exclusive in (False, True):
        task = Task(
            small_step([], exclusive=exclusive), tmp_path / str(exclusive), Workdir(tmp_path)
        )
        run_task(task, Small(), mesh)
        (task.folder / "note").write_text("x")
        assert task.is_done(Small()) == (not exclusive)


def test_it_is_run_again_when_that_is_asked_for(tmp_path: Path) -> None:
    runs: list[int] = []
    task, mesh = Task(small_step(runs), tmp_path / "own", Workdir(tmp_path)), make_mesh(CONFIG.mesh)
    run_task(task, Small(), mesh)
    run_task(task, Small(), mesh, overwrite=True)
    assert runs == [2]
    run_task(task, Small(), mesh, overwrite=True, again=True)
    assert runs == [2, 2]
