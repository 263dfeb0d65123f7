"""Where the student's first weights come from if that is the trained teacher: some layers of its
query tower, with all that is around them. Prune, then align: training does the rest.

`weights="teacher:first"` takes the first `num_layers` layers; "teacher:ends" half of them from the
bottom and half from the top, of an odd number the one more from the bottom: of 12 layers, 3 are 0,
1 and 11. What the student is follows from the config alone, so that it can be planned before there
is a teacher, and used where there is none. Not for reading checkpoints.
"""

from __future__ import annotations

import jax
import numpy as np
from flax import traverse_util

from scalingnote_jax.config import BertShape, TowerConfig
from scalingnote_jax.config.student import follows_teacher
from scalingnote_jax.config.towers import ENDS, FIRST, Shape
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.layers.params import Tree
from scalingnote_jax.models.layers.views import local_layers
from scalingnote_jax.models.tower import TowerDef, tower_def
from scalingnote_jax.models.weights.storage import store


def is_from_teacher(cfg: TowerConfig) -> bool:
    """Whether the tower starts from the trained teacher."""
    return cfg.weights in (FIRST, ENDS)


def student_config(student: TowerConfig, teacher: TowerConfig) -> TowerConfig:
    """The student's complete config. Of a student that starts from the teacher, what the teacher's
    query tower decides is filled in: shape, tokenizer, pooling, projection; and its `text`, if the
    student has none of its own.

    Args:
        student: as the config has it.
        teacher: the teacher's query tower.

    Raises:
        UserError: the student's config says something else than the teacher's, or the layers that
            are taken do not fit into their new places.
    """
    if not student.weights.startswith("teacher:"):
        return student
    shape = tower_def(teacher, "teacher.query").shape
    cfg = follows_teacher(student, teacher, shape)
    _check_kinds(cfg, shape, tower_def(cfg, "distill.student").shape)
    return cfg


def chosen_layers(weights: str, count: int, of: int) -> list[int]:
    """The numbers of the `count` layers, of `of`, that a student with these `weights` takes."""
    if weights == FIRST:
        return list(range(count))
    top = count // 2
    return [*range(count - top), *range(of - top, of)]


def from_teacher(student: TowerDef, teacher: TowerDef, params: Tree) -> dict[str, jax.Array]:
    """The student's first weights, path → array; adapters of its own are not among them. Pure.

    Args:
        student: the tower of a `student_config`.
        teacher: its teacher's query tower.
        params: the teacher's; adapters are merged into them.
    """
    plain, params = teacher.merged(params)
    layers = chosen_layers(student.cfg.weights, student.shape.num_layers, plain.shape.num_layers)
    body = params["body"]
    if layers:
        taken = jax.tree.map(lambda x: x[np.array(layers)], body["layers"])
        body = {**body, "layers": taken}
    else:
        body = {"embedding": body["embedding"]}
    flat = traverse_util.flatten_dict({**params, "body": body}, sep="/")
    return store(flat, student.shape, student.cfg.lora.base_dtype)


def _check_kinds(cfg: TowerConfig, of: Shape, shape: Shape) -> None:
    """A layer that sees a window must not become one that sees all, nor the other way round."""
    if isinstance(of, BertShape) or isinstance(shape, BertShape):
        return
    kinds, layers = local_layers(of), chosen_layers(cfg.weights, shape.num_layers, of.num_layers)
    if tuple(kinds[i] for i in layers) != tuple(local_layers(shape)):
        raise bad_input(
            "--distill.student.weights",
            f"{cfg.weights!r}: layers {layers} of a model in which some see a window and some all",
            "layers that keep their kind in their new places",
            f"use {FIRST!r}, or another num_layers",
        )
