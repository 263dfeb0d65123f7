"""A start for towers of two depths, whose vectors lie in spaces that have nothing to do with each
other: the query side's projection fitted so that it gives queries about the vectors that the
document tower, as it is before stage 1, gives for the same texts. A few thousand forward passes in
place of many steps. Ours; without it a baseline such as ScalingDoc pays for the search alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from scalingnote_jax.config import Config, replace
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.layers.params import Flat, nest
from scalingnote_jax.models.tower import TowerDef
from scalingnote_jax.models.weights.placing import place
from scalingnote_jax.progress import say
from scalingnote_jax.text.contract import tokens_of, tower_tokenizer
from scalingnote_jax.train.prepare import Prepared
from scalingnote_jax.train.student_start import FIT_TEXTS, fitted_projection
from scalingnote_jax.vectors.encoder import Encoder

if TYPE_CHECKING:
    from scalingnote_jax.models.pair import Towers

_PROJECTION = "query/projection"


def check_aligned(config: Config) -> None:
    """Refuses what has no projection of its own to be fitted."""
    if config.train.fit_query_projection and (
        config.teacher.share or not config.teacher.query.projection
    ):
        fix = "set --teacher.share=false and --teacher.query.projection, as the document side's"
        given = "true without a projection of the query side's own"
        raise bad_input("--train.fit_query_projection", given, "one", fix)


def aligned_start(
    config: Config,
    towers: Towers,
    queries: Sequence[str],
    prepared: Prepared,
    initial: Callable[[], Flat],
) -> Flat:
    """Parameters of stage 1 at step 0, with the query side's projection fitted.

    Args:
        queries: texts of the training split.
        initial: the parameters without that, as `sharding.place` takes them.
    """
    rng = np.random.default_rng([config.seed, 4])
    chosen = np.sort(rng.choice(len(queries), min(len(queries), FIT_TEXTS), replace=False))
    texts = [queries[i] for i in chosen]
    say(f"train: the query side's projection is fitted on {len(texts)} queries")
    placed = place(initial(), prepared.shardings.params | prepared.shardings.frozen)
    sides, mesh, size = nest(placed), prepared.mesh, config.encode.batch_size
    doc = Encoder(towers.doc, sides["doc"], tower_tokenizer(towers.doc.cfg), mesh, size)
    bare = TowerDef(replace(towers.query.cfg, projection=0), towers.query.shape)
    tokenizer = tower_tokenizer(bare.cfg)
    body = {name: part for name, part in sides["query"].items() if name != "projection"}
    query = Encoder(bare, body, tokenizer, mesh, size)
    table = tokens_of([("", text) for text in texts], bare.cfg, tokenizer)
    return placed | {_PROJECTION: fitted_projection(query, table, doc.encode(texts), config)}
