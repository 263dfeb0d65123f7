"""The weights in checkpoints (Orbax), restored onto whatever mesh there is now.

Restoring always passes shapes and shardings of the *current* mesh; what the disk says about devices
is never read. Not for the optimizer's state and not for writing: `train/checkpoint.py`.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.layers.params import Flat, flatten, nest

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

    def meta(self, step: int) -> dict[str, Any]:
        """What was saved beside the weights: step, shapes and what the stage added."""
        with _speaking(self.folder / str(step)):
            args = ocp.args.Composite(meta=ocp.args.JsonRestore())
            return dict(self._manager.restore(step, args=args).meta)

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
        return flatten(self._read(step, "params", nest(abstract(like, shardings))))

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


def abstract(tree: Any, shardings: Any) -> Any:
    """Shapes with shardings: what is restored into."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )
