"""Parameters before the first step, where they are not simply pretrained or random: a student from
layers of the trained teacher, and projections fitted in place of many steps.

Which layers a student takes, and what follows for its config, is said in `models/from_teacher.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from scalingnote_jax.config import DistillConfig, EncodeConfig, TrainConfig, replace
from scalingnote_jax.data.collection import Collection
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.from_teacher import from_teacher, is_from_teacher
from scalingnote_jax.models.layers.params import Flat, flatten, nest
from scalingnote_jax.models.pair import Towers
from scalingnote_jax.models.tower import TowerDef
from scalingnote_jax.models.weights.placing import place
from scalingnote_jax.progress import say
from scalingnote_jax.text.contract import tokens_of, tower_tokenizer
from scalingnote_jax.text.tokens import TokenTable
from scalingnote_jax.train.prepare import Prepared
from scalingnote_jax.vectors.encoder import Encoder, load_encoder, unit_rows
from scalingnote_jax.vectors.trained import TrainedTower

FIT_TEXTS = 4096  # of which a projection is fitted
RIDGE = 1e-3  # of the mean of the squared singular values
_STUDENT, _QUERY = "student/projection", "query/projection"


def student_start(
    tower: TowerDef,
    table: TokenTable,
    vectors: np.ndarray,
    teacher: TrainedTower,
    prepared: Prepared,
    cfg: DistillConfig,
    seed: int,
    encode: EncodeConfig,
) -> Flat:
    """Parameters "student/…" at step 0, as `placing.place` takes them.

    Args:
        tower: the student.
        table: the query texts in its tokens.
        vectors: [len(table), D] float32, the teacher's raw vectors of the same texts.
        teacher: its query tower.
        prepared: says where the parameters will lie.

    Raises:
        UserError: there is no trained teacher, or no projection to be fitted.
    """
    taken = None
    if is_from_teacher(tower.cfg):
        trained = load_encoder(teacher, encode, prepared.mesh)
        taken = jax.jit(partial(from_teacher, tower, trained.tower))(trained.params)
    params = flatten({"student": tower.stored_params(seed, taken)})
    if not cfg.fit_projection:
        return params
    if not tower.cfg.projection:
        fix = f"set --distill.student.projection to {tower.dim}"
        given = "true for a student without one"
        raise bad_input("--distill.fit_projection", given, "a projection", fix)
    spread = prepared.shardings.params | prepared.shardings.frozen
    body = place({path: x for path, x in params.items() if path != _STUDENT}, spread)
    bare, tokenizer = replace(tower.cfg, projection=0), tower_tokenizer(tower.cfg)
    student, definition = nest(body)["student"], TowerDef(bare, tower.shape)
    encoder = Encoder(definition, student, tokenizer, prepared.mesh, encode.batch_size)
    unit = cfg.normalise == "post"
    return body | {_STUDENT: fitted_projection(encoder, table, vectors, unit, seed)}


def fitted_projection(
    encoder: Encoder, table: TokenTable, vectors: np.ndarray, unit: bool, seed: int
) -> np.ndarray:
    """[E, D] float32, the linear map from what a tower without projection gives to the
    vectors that has the least squared error on a sample of texts, with a small ridge.

    Args:
        encoder: the tower without projection.
        table: texts in its tokens.
        vectors: [len(table), D], of the same texts.
        unit: whether they are learned after the L2 norm.
    """
    size, rng = min(len(table), FIT_TEXTS), np.random.default_rng([seed, 3])
    rows = np.sort(rng.choice(len(table), size, replace=False))
    wanted = unit_rows(vectors[rows]) if unit else vectors[rows]
    pooled = encoder.encode_table(table, rows).astype(np.float64)  # [n, E]
    gram = pooled.T @ pooled
    ridge = RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    return np.linalg.solve(gram + ridge, pooled.T @ wanted).astype(np.float32)


def query_start(
    towers: Towers,
    collection: Collection,
    prepared: Prepared,
    initial: Callable[[], Flat],
    seed: int,
    batch_size: int,
) -> Flat:
    """Parameters of stage 1 at step 0, with the query side's projection fitted, for towers of two
    depths, whose vectors lie in spaces that have nothing to do with each other: it gives queries
    about the vectors that the document tower, as it is before stage 1, gives for the same texts.
    Ours; without it a baseline such as ScalingDoc pays for the search alone.

    Args:
        collection: its training queries are read.
        initial: the parameters without that, as `placing.place` takes them.
        batch_size: as in `EncodeConfig`.
    """
    queries, rng = _train_queries(collection), np.random.default_rng([seed, 4])
    chosen = np.sort(rng.choice(len(queries), min(len(queries), FIT_TEXTS), replace=False))
    texts = [queries[i] for i in chosen]
    say(f"train: the query side's projection is fitted on {len(texts)} queries")
    placed = place(initial(), prepared.shardings.params | prepared.shardings.frozen)
    sides, mesh, size = nest(placed), prepared.mesh, batch_size
    doc = Encoder(towers.doc, sides["doc"], tower_tokenizer(towers.doc.cfg), mesh, size)
    bare = TowerDef(replace(towers.query.cfg, projection=0), towers.query.shape)
    tokenizer = tower_tokenizer(bare.cfg)
    body = {name: part for name, part in sides["query"].items() if name != "projection"}
    query = Encoder(bare, body, tokenizer, mesh, size)
    table = tokens_of([("", text) for text in texts], bare.cfg, tokenizer)
    return placed | {_QUERY: fitted_projection(query, table, doc.encode(texts), True, seed)}


def stage1_start(
    cfg: TrainConfig,
    towers: Towers,
    collection: Collection,
    prepared: Prepared,
    seed: int,
    batch_size: int,
) -> Callable[[], Flat]:
    """What makes the parameters of stage 1 at step 0, with projections as the config asks for."""
    start: Callable[[], Flat] = partial(towers.initial, seed, cfg.temperature)
    if cfg.fit_query_projection:
        return partial(query_start, towers, collection, prepared, start, seed, batch_size)
    return start


def _train_queries(collection: Collection) -> list[str]:
    judged = collection.qrels("train")
    return [q.text for q in collection.queries if q.id in judged]
