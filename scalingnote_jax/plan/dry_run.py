"""`--dry-run`: what a training step would look like on this mesh, from abstract weights, before
anything is loaded or written.
"""

from __future__ import annotations

from jax.sharding import Mesh
from rich.table import Table

from scalingnote_jax.config import DistillConfig, RefineConfig, Stages, TowersConfig, TrainConfig
from scalingnote_jax.devices.sharding import bytes_per_device, total_bytes_per_device
from scalingnote_jax.losses.contrastive_form import held_score_bytes, is_blockwise
from scalingnote_jax.models.from_teacher import student_config
from scalingnote_jax.models.layers.params import Flat, flatten
from scalingnote_jax.models.pair import Towers
from scalingnote_jax.models.tower import tower_def
from scalingnote_jax.progress import console
from scalingnote_jax.train.prepare import Prepared, StageConfig, check_batch, make_schedule

MIB = 2**20


def dry_run(
    verb: str,
    mesh: Mesh,
    folder: str,
    *,
    stages: Stages,
    teacher: TowersConfig,
    train: TrainConfig,
    distill: DistillConfig,
    refine: RefineConfig,
) -> None:
    """Prints the mesh and, for the steps that train, each parameter's place and size and what the
    loss will hold.

    Args:
        verb: the step, or "run" for all.
        folder: where it would write.
    """
    sizes = " × ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    console.print(f"mesh: {sizes} ({mesh.size} devices)")
    if verb in ("train", "run") and stages.trains:
        towers = Towers(teacher)
        freeze = towers.freeze(train.learn_temperature)
        _print_parameters("train", train, *towers.abstract(), freeze, mesh)
        _print_loss(train, mesh)
    later: tuple[tuple[str, StageConfig, bool], ...] = (
        ("distill", distill, stages.distills),
        ("refine", refine, stages.refines),
    )
    for stage, cfg, wanted in later:
        if verb in (stage, "run") and wanted:
            student = tower_def(student_config(distill.student, teacher.query), "distill.student")
            shapes, axes = (flatten({"student": tree}) for tree in student.abstract())
            _print_parameters(stage, cfg, shapes, axes, student.freeze, mesh)
    console.print(f"{verb}: would write to {folder}; nothing was written", markup=False)


def _print_parameters(
    stage: str,
    cfg: StageConfig,
    shapes: Flat,
    axes: dict[str, tuple[str | None, ...]],
    freeze: tuple[str, ...],
    mesh: Mesh,
) -> None:
    check_batch(stage, cfg, mesh)
    field = "teacher" if stage == "train" else "distill.student"
    # One example per epoch: the schedule's length changes nothing of what is shown.
    prepared = Prepared(field, shapes, axes, freeze, cfg, make_schedule(stage, cfg, 1), mesh)
    table = Table(
        "parameter",
        "shape",
        "split over",
        "MiB per device",
        "trained",
        title=f"{stage}: parameters",
    )
    spread = prepared.shardings.params | prepared.shardings.frozen
    for path, x in sorted(shapes.items()):
        split = (
            ", ".join(f"{a}→{s}" for a, s in zip(axes[path], spread[path].spec, strict=False) if s)
            or "copied"
        )
        size = bytes_per_device(x, spread[path]) / MIB
        trained = "no" if path in prepared.frozen_paths else "yes"
        table.add_row(path, str(list(x.shape)), split, f"{size:.2f}", trained)
    console.print(table)
    weights = total_bytes_per_device(shapes, {path: spread[path] for path in shapes})
    moments = total_bytes_per_device(prepared.abstract.opt_state, prepared.shardings.opt_state)
    parts = f"{weights / MIB:.1f} MiB weights, {moments / MIB:.1f} MiB optimizer state"
    console.print(f"{stage}: per device {parts}")


def _print_loss(cfg: TrainConfig, mesh: Mesh) -> None:
    documents = cfg.batch_size * (1 + cfg.negatives_per_query)
    sizes = (cfg.batch_size, documents, mesh)
    form = "blockwise" if is_blockwise(cfg, *sizes) else "dense"
    console.print(
        f"train: {cfg.batch_size} queries × {documents} documents a step, "
        f"up to {documents - 1} negatives per query, "
        f"{held_score_bytes(cfg, *sizes) / MIB:.2f} MiB of scores a device ({form} loss)"
    )
