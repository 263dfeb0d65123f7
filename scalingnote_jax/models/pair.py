"""The two towers of stage 1, for queries and for documents, as one set of parameters (paper,
section 3.1). Not for losses or steps.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalingnote_jax.config import TowersConfig
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.layers.params import Flat, flatten
from scalingnote_jax.models.tower import TowerDef, tower_def


class Towers:
    """The two towers' definitions, and their parameters as one flat dict "query/…", "doc/…" (or
    "shared/…"), "log_scale".
    """

    def __init__(self, cfg: TowersConfig):
        self.cfg = cfg
        self.query, self.doc = tower_def(cfg.query), tower_def(cfg.doc)
        if self.query.dim != self.doc.dim:
            raise bad_input(
                "--teacher",
                f"query vectors of D = {self.query.dim}, document vectors of D = {self.doc.dim}",
                "the same D on both sides",
                "set --teacher.query.projection and --teacher.doc.projection alike",
            )
        if cfg.share and self.query.shape != self.doc.shape:
            raise bad_input(
                "--teacher.share",
                "true for towers of two shapes",
                "the same weights and layers",
                "set it to false",
            )

    @property
    def sides(self) -> dict[str, TowerDef]:
        """Parameter prefix → tower."""
        return {"shared": self.query} if self.cfg.share else {"query": self.query, "doc": self.doc}

    def abstract(self) -> tuple[Flat, dict[str, tuple[str | None, ...]]]:
        """Shapes and logical axes of all parameters."""
        shapes: Flat = {LOG_SCALE: jax.ShapeDtypeStruct((), np.float32)}
        axes: dict[str, tuple[str | None, ...]] = {LOG_SCALE: ()}
        for side, tower in self.sides.items():
            tower_shapes, tower_axes = tower.abstract()
            shapes |= flatten({side: tower_shapes})
            axes |= flatten({side: tower_axes})
        return shapes, axes

    def initial(self, seed: int, temperature: float) -> Flat:
        """Parameters at step 0, on disk or not drawn yet. Both sides start from the same seed,
        so equal towers start equal, projection included.
        """
        params: Flat = {LOG_SCALE: np.float32(-np.log(temperature)).reshape(())}
        for side, tower in self.sides.items():
            params |= flatten({side: tower.stored_params(seed)})
        return params

    def freeze(self, learn_temperature: bool) -> tuple[str, ...]:
        """The configs' patterns, each for its side; a fixed temperature is a frozen parameter."""
        if self.cfg.share:
            patterns = [f"^shared/.*(?:{p})" for p in self.query.freeze]
        else:
            patterns = [f"^query/.*(?:{p})" for p in self.query.freeze]
            patterns += [f"^doc/.*(?:{p})" for p in self.doc.freeze]
        return (*patterns, *(() if learn_temperature else (f"^{LOG_SCALE}$",)))


LOG_SCALE = "log_scale"  # the learned temperature's path among the parameters


def side_params(params: dict[str, Any], side: str) -> dict[str, Any]:
    """A side's weights: its own, or the one set that both sides share."""
    return params["shared"] if "shared" in params else params[side]


def capped(trained: Flat, max_scale: float) -> Flat:
    """The trained parameters after a step, with 1 / temperature taken back to the cap if it went
    beyond: without one large batches push it up until training diverges. A fixed temperature is not
    among them, and stays what the config says.

    A cap inside the loss would have no gradient there, and so would never be left again.
    """
    if LOG_SCALE not in trained:
        return trained
    return trained | {LOG_SCALE: jnp.minimum(trained[LOG_SCALE], np.log(np.float32(max_scale)))}
