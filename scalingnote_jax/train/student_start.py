"""The student's parameters before its first step: pretrained or random ones, or layers of the
trained teacher; the projection drawn or fitted. Which layers, and what follows for the student's
config, is said in `models/from_teacher.py`.
"""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh

from scalingnote_jax.config import Config, replace
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.from_teacher import from_teacher, is_from_teacher
from scalingnote_jax.models.layers.params import Flat, flatten, nest
from scalingnote_jax.models.tower import TowerDef
from scalingnote_jax.models.weights.placing import place
from scalingnote_jax.text.contract import tower_tokenizer
from scalingnote_jax.text.tokens import TokenTable
from scalingnote_jax.train.prepare import Prepared
from scalingnote_jax.vectors.encoder import Encoder, load_encoder, unit_rows
from scalingnote_jax.workflow.workdir import Workdir

FIT_TEXTS = 4096  # of which the projection is fitted
RIDGE = 1e-3  # of the mean of the squared singular values
_PROJECTION = "student/projection"


def student_start(
    config: Config,
    tower: TowerDef,
    table: TokenTable,
    vectors: np.ndarray,
    workdir: Workdir,
    prepared: Prepared,
) -> Flat:
    """Parameters "student/…" at step 0, as `sharding.place` takes them.

    Args:
        tower: the student.
        table: the query texts in its tokens.
        vectors: [len(table), D] float32, the teacher's raw vectors of the same texts.
        prepared: says where the parameters will lie.

    Raises:
        UserError: there is no trained teacher, or no projection to be fitted.
    """
    taken = _taken(config, tower, workdir, prepared.mesh)
    params = flatten({"student": tower.stored_params(config.seed, taken)})
    if not config.distill.fit_projection:
        return params
    if not tower.cfg.projection:
        fix = f"set --distill.student.projection to {tower.dim}"
        given = "true for a student without one"
        raise bad_input("--distill.fit_projection", given, "a projection", fix)
    spread = prepared.shardings.params | prepared.shardings.frozen
    body = place({path: x for path, x in params.items() if path != _PROJECTION}, spread)
    bare, tokenizer = replace(tower.cfg, projection=0), tower_tokenizer(tower.cfg)
    encoder = Encoder(
        TowerDef(bare, tower.shape),
        nest(body)["student"],
        tokenizer,
        prepared.mesh,
        config.encode.batch_size,
    )
    return body | {_PROJECTION: fitted_projection(encoder, table, vectors, config)}


def fitted_projection(
    encoder: Encoder, table: TokenTable, vectors: np.ndarray, config: Config
) -> np.ndarray:
    """[E, D] float32, the linear map from what a student without projection gives to the teacher's
    vectors that has the least squared error on a sample of texts, with a small ridge.

    Args:
        encoder: the student without projection.
        table: texts in the student's tokens.
        vectors: [len(table), D], the teacher's of the same texts.
        config: says whether they are learned before or after the L2 norm.
    """
    size, rng = min(len(table), FIT_TEXTS), np.random.default_rng([config.seed, 3])
    rows = np.sort(rng.choice(len(table), size, replace=False))
    wanted = vectors[rows] if config.distill.normalise == "pre" else unit_rows(vectors[rows])
    pooled = encoder.encode_table(table, rows).astype(np.float64)  # [n, E]
    gram = pooled.T @ pooled
    ridge = RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    return np.linalg.solve(gram + ridge, pooled.T @ wanted).astype(np.float32)


def _taken(
    config: Config, tower: TowerDef, workdir: Workdir, mesh: Mesh
) -> dict[str, jax.Array] | None:
    """What the student takes over from the trained teacher, on the mesh; None if nothing."""
    if not is_from_teacher(tower.cfg):
        return None
    teacher = load_encoder(config, workdir, "teacher", "query", mesh)
    return jax.jit(partial(from_teacher, tower, teacher.tower))(teacher.params)
