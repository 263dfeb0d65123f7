"""What is looked at before a new workdir is claimed, and the claim: the data source, the weights,
and what the devices make of the batch sizes. Whatever fails here leaves no folder.

What the config alone says was refused before, on load; texts and weights are read later.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from scalingnote_jax.config import Config, TowerConfig, replace
from scalingnote_jax.config.neutral import is_neutral
from scalingnote_jax.config.stages import Side
from scalingnote_jax.config.student import one_model
from scalingnote_jax.config.towers import BY_VECTORS, SAME_MODEL
from scalingnote_jax.config.validate import validate
from scalingnote_jax.config.values import (
    CONFIG_FILE,
    field_values,
    read_workdir_config,
    to_json,
)
from scalingnote_jax.data.sources import open_source
from scalingnote_jax.errors import UserError, bad_input
from scalingnote_jax.files.guard import needed_path
from scalingnote_jax.hub import locate
from scalingnote_jax.progress import say
from scalingnote_jax.systems import systems_of
from scalingnote_jax.workflow.artefact import write_json

if TYPE_CHECKING:
    from jax.sharding import Mesh

_WITHOUT_TOWERS = ("data",)


def is_claimed(workdir: Path) -> bool:
    """Whether the folder is a workdir already."""
    return (workdir / CONFIG_FILE).is_file()


def check_places(config: Config, verb: str) -> None:
    """Whether what the config names is there. Imports no JAX.

    Args:
        verb: `data` needs no towers.

    Raises:
        UserError: the data source, a run file, weights or a tokenizer cannot be opened.
    """
    open_source(config.data)
    brought = {"encode.vectors": config.encode.vectors}
    brought["distill.query_vectors"] = config.distill.query_vectors
    files = [*brought.items(), *(("distill.query_files", n) for n in config.distill.query_files)]
    for field, path in files:
        if path and not Path(path).expanduser().exists():
            given, expected = f"{path!r} is not there", "what docs/bring.md lists"
            raise bad_input(f"--{field}", given, expected, "check the path")
    for path in config.eval.runs:
        needed_path("--eval.runs", path, "TREC run files")
    if verb in _WITHOUT_TOWERS:
        return
    towers = {"teacher.query": config.teacher.query, "teacher.doc": config.teacher.doc}
    if config.distill.duration:
        towers["distill.student"] = config.distill.student
    for where, cfg in towers.items():
        _locate(cfg, where)


def _locate(cfg: TowerConfig, where: str) -> None:
    field = f"--{where}.weights"
    try:
        if cfg.weights == BY_VECTORS:
            return
        drawn_or_given = cfg.weights in ("random", SAME_MODEL) or cfg.weights.startswith("teacher:")
        if not drawn_or_given:
            locate(cfg.weights)
        field = f"--{where}.tokenizer"
        if cfg.tokenizer not in ("", "bytes"):
            locate(cfg.tokenizer, tokenizer=True)
    except UserError as e:
        raise UserError(f"{field}: {e}") from e


def completed(config: Config, planned: bool = False, tell: bool = True) -> Config:
    """`config` with what the folders of the towers' weights say where it leaves that open, see
    `models/weights/beside/completion.py`. Weights that are not there leave it as it is.

    Args:
        planned: nothing of weights is read where the config has their shape.
        tell: says what was taken from where.

    Raises:
        UserError: a folder says what a tower has not, or the config contradicts it.
    """
    from scalingnote_jax.models.weights.beside.completion import complete_tower

    teacher, student = one_model(config.teacher), config.distill.student
    towers: tuple[tuple[TowerConfig, Side, str], ...] = (
        (teacher.query, "query", "teacher.query"),
        (teacher.doc, "doc", "teacher.doc"),
        (student, "query", "distill.student"),
    )
    made = []
    for cfg, side, where in towers:
        there = cfg.weights == "random" or _is_there(cfg.weights)
        unread = (planned and cfg.shape) or not there
        if where == "distill.student" and not config.stages.distills:
            unread = True
        complete, lines = (cfg, []) if unread else complete_tower(cfg, side, where)
        made.append(complete)
        for line in lines if tell else ():
            say(line)
    query, doc, student = made
    config = replace(
        config,
        teacher=replace(teacher, query=query, doc=doc),
        distill=replace(config.distill, student=student),
    )
    validate(config)
    return config


def _is_there(weights: str) -> bool:
    try:
        locate(weights)
    except UserError:
        return False
    return True


def check_on_mesh(config: Config, verb: str, mesh: Mesh) -> None:
    """Whether the towers can be built, and the batches be split over the devices.

    Raises:
        UserError: a tower's settings do not go with its weights, or a batch cannot be split.
    """
    if verb in _WITHOUT_TOWERS:
        return
    from scalingnote_jax.losses.query_prediction import check_own_head
    from scalingnote_jax.models.from_teacher import student_config
    from scalingnote_jax.models.pair import Towers
    from scalingnote_jax.models.tower import tower_def

    check_batches(config, mesh)
    if BY_VECTORS not in (config.teacher.query.weights, config.teacher.doc.weights):
        Towers(config.teacher)
    if config.stages.trains:
        check_own_head(config.train, config.teacher.doc)
    if config.stages.distills:
        student = student_config(config.distill.student, config.teacher.query)
        tower_def(student, "distill.student")


def check_batches(config: Config, mesh: Mesh) -> None:
    """Whether the batches of all stages that there are can be split over the devices.

    Raises:
        UserError: one cannot.
    """
    from scalingnote_jax.train.prepare import check_batch

    if config.stages.trains:
        check_batch("train", config.train, mesh)
    if config.stages.distills:
        check_batch("distill", config.distill, mesh)
    if config.stages.refines:
        check_batch("refine", config.refine, mesh)


def check_evaluation(config: Config) -> None:
    """Whether the further collections of the evaluation are there, with judgements.

    Raises:
        UserError: one is not as it should be.
    """
    from scalingnote_jax.evaluate.cross_domain import check_collections
    from scalingnote_jax.evaluate.disturbances import check_robustness

    check_robustness(config.eval)
    systems = systems_of(config.stages, config.eval.systems)
    check_collections(config.eval, config.data, systems)


@contextmanager
def claimed(config: Config, workdir: Path, overwrite: bool, verb: str) -> Iterator[None]:
    """Claims the workdir, and locks it while the block runs. The first process does, for all.

    Raises:
        UserError: as `claim_workdir`; or another run is at work there.
    """
    from scalingnote_jax.devices import mesh as mesh_lib
    from scalingnote_jax.workflow.lock import held

    with ExitStack() as stack:
        if mesh_lib.first_process():
            workdir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(workdir, verb))
            claim_workdir(config, workdir, overwrite)
        mesh_lib.barrier("workdir")
        yield


def claim_workdir(config: Config, workdir: Path, overwrite: bool) -> None:
    """Writes the resolved config into `workdir`; refuses a workdir that belongs to another config.
    Fields that change no number may differ.

    Raises:
        UserError: `workdir` holds another config and `overwrite` is not set; the first differing
            field is named.
    """
    path = workdir / CONFIG_FILE
    if path.is_file() and not overwrite:
        theirs = field_values(read_workdir_config(workdir))
        ours = field_values(config)
        for name in [*ours, *theirs]:
            if ours.get(name) != theirs.get(name) and not is_neutral(name):
                raise bad_input(
                    str(path),
                    f"this workdir is of another config: {name} is {theirs.get(name)!r} there",
                    f"{ours.get(name)!r}",
                    "choose another --workdir, or add --overwrite to redo the steps that change",
                )
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(path, to_json(config))
