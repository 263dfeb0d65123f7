"""Checkpoints with Orbax: items `params`, `opt`, `meta`; written in the background, restored onto
whatever mesh there is now.

Restoring always passes shapes and shardings of the *current* mesh; what the disk says about devices
is never read. Neither random state nor the data's position is saved: both are functions of (seed,
step).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from scalingnote_jax.errors import bad_input
from scalingnote_jax.train.state import Flat, TrainState, flatten, nest

ITEMS = ("params", "opt", "meta")
logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells each file it opens


class Checkpoints:
    """The checkpoints of one stage: a folder per step, of which the newest `keep` stay."""

    def __init__(self, folder: Path, keep: int = 2):
        self.folder = folder.resolve()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(self.folder, item_names=ITEMS, options=options)

    def latest_step(self) -> int | None:
        """The newest complete checkpoint's step."""
        return self._manager.latest_step()

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

    def meta(self, step: int) -> dict[str, Any]:
        """What was saved beside the weights: step, shapes and what the stage added."""
        with _speaking(self.folder / str(step)):
            args = ocp.args.Composite(meta=ocp.args.JsonRestore())
            return dict(self._manager.restore(step, args=args).meta)

    def restore(self, step: int, like: TrainState, shardings: TrainState) -> TrainState:
        """The whole state at `step`, laid out by `shardings`. `like` gives structure and shapes."""
        params = self.restore_params(
            step, like.params | like.frozen, shardings.params | shardings.frozen
        )
        target = {"state": _abstract(_nest_dicts(like.opt_state), _nest_dicts(shardings.opt_state))}
        opt = self._read(step, "opt", target)["state"]
        counter = jax.device_put(np.int32(step), shardings.step)
        trained = {path: params[path] for path in like.params}
        return TrainState(
            counter,
            trained,
            {p: params[p] for p in like.frozen},
            _flatten_dicts(opt, like.opt_state),
        )

    def restore_params(self, step: int, like: Flat, shardings: Flat) -> Flat:
        """Only the weights (flat), of which `like` may name a part, such as one tower."""
        saved = self.meta(step)["shapes"]
        for path, x in like.items():
            if saved.get(path) != list(x.shape):
                raise bad_input(
                    str(self.folder / str(step)),
                    f"{path} has shape {saved.get(path, 'none: it is not there')}",
                    f"{list(x.shape)}",
                    "use the config that this checkpoint was trained with",
                )
        return flatten(self._read(step, "params", nest(_abstract(like, shardings))))

    def _read(self, step: int, item: str, target: Any) -> Any:
        """The part of an item that `target` (shapes with shardings) names."""
        restore = ocp.args.PyTreeRestore(
            item=target,
            restore_args=ocp.checkpoint_utils.construct_restore_args(target),
            partial_restore=True,
        )
        with _speaking(self.folder / str(step)):
            return self._manager.restore(step, args=ocp.args.Composite(**{item: restore}))[item]

    def close(self) -> None:
        """Waits for the last write, and for its errors."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()
        self._manager.close()


class _speaking:
    """Turns a failure while reading a checkpoint into one line that names it."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (ValueError, KeyError, OSError, TypeError)):
            raise bad_input(
                str(self.path),
                f"the checkpoint cannot be read ({str(error)[:200]})",
                "a complete checkpoint",
                "delete this folder to go on from the one before, or train again with --overwrite",
            ) from error


def _abstract(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
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
