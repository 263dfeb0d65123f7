"""Checkpoints of a training (Orbax): items `params`, `opt`, `meta`; written in the background.

Neither random state nor the data's position is saved: both are functions of (seed, step). Reading
the weights alone is `models/weights/restore.py`.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from scalingnote_jax.models.layers.params import flatten, nest
from scalingnote_jax.models.weights.restore import Checkpoints, abstract
from scalingnote_jax.train.state import TrainState


class TrainingCheckpoints(Checkpoints):
    """The checkpoints of one stage, with the optimizer's state, to be written and gone on from."""

    def save(self, state: TrainState, step: int, meta: dict[str, Any]) -> None:
        """Starts writing; an error of an earlier write surfaces here, not at the end of the run."""
        self._manager.check_for_errors()
        params = state.params | state.frozen
        shapes = {path: list(x.shape) for path, x in params.items()}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.PyTreeSave(nest(params)),
                opt=ocp.args.PyTreeSave({"state": _nest_dicts(state.opt_state)}),
                meta=ocp.args.JsonSave(meta | {"step": step, "shapes": shapes}),
            ),
        )

    def restore(self, step: int, like: TrainState, shardings: TrainState) -> TrainState:
        """The whole state at `step`, laid out by `shardings`. `like` gives structure and shapes."""
        params = self.restore_params(
            step, like.params | like.frozen, shardings.params | shardings.frozen
        )
        target = {"state": abstract(_nest_dicts(like.opt_state), _nest_dicts(shardings.opt_state))}
        opt = self._read(step, "opt", target)["state"]
        counter = jax.device_put(np.int32(step), shardings.step)
        trained = {path: params[path] for path in like.params}
        return TrainState(
            counter,
            trained,
            {p: params[p] for p in like.frozen},
            _flatten_dicts(opt, like.opt_state),
        )


def _is_dict(x: Any) -> bool:
    return isinstance(x, dict)


def _nest_dicts(tree: Any) -> Any:
    """Flat dicts inside an optimizer state → nested: '/' in a key would be a folder to the storage
    layer.
    """
    return jax.tree.map(lambda x: nest(x) if _is_dict(x) else x, tree, is_leaf=_is_dict)


def _flatten_dicts(tree: Any, like: Any) -> Any:
    """The inverse of `_nest_dicts`, with the structure of `like`."""
    leaves = jax.tree.leaves(
        jax.tree.map(lambda x: flatten(x) if _is_dict(x) else x, tree, is_leaf=_is_dict)
    )
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
