"""The weights in checkpoints (Orbax), restored onto whatever mesh there is now, and compared with
the check sums that were saved with them.

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
from scalingnote_jax.files.guard import reading
from scalingnote_jax.hashing import content_hash
from scalingnote_jax.models.layers.params import Flat, flatten, nest
from scalingnote_jax.models.weights.checkpoint_meta import damaged_checkpoint, read_meta
from scalingnote_jax.models.weights.value_sums import value_sums

ITEMS = ("params", "opt", "meta")
logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells each file it opens


class Checkpoints:
    """The checkpoints of one stage: a folder per step, of which the newest `keep` stay."""

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self._keep = folder.resolve(), keep
        self._manager = self._open()

    def _open(self) -> Any:
        options = ocp.CheckpointManagerOptions(max_to_keep=self._keep, create=True)
        fix = "delete the newest folder in it, and run the step again"
        with reading(self.folder, "checkpoints as they were saved", fix):
            return ocp.CheckpointManager(self.folder, item_names=ITEMS, options=options)

    def latest_step(self) -> int | None:
        """The newest complete checkpoint's step."""
        return self._manager.latest_step()

    def meta(self, step: int) -> dict[str, Any]:
        """What was saved beside the weights: step, shapes, check sums and what the stage added.

        Raises:
            DamagedCheckpoint: it is not as it was saved.
        """
        self._manager.wait_until_finished()  # one that is being saved has no description yet
        return read_meta(self.folder / str(step))

    def restore_params(self, step: int, like: Flat, shardings: Flat) -> Flat:
        """Only the weights (flat), of which `like` may name a part, such as one tower.

        Raises:
            UserError: they have other shapes; or, as `DamagedCheckpoint`, are not as they were
                saved.
        """
        meta = self.meta(step)
        for path, x in like.items():
            if meta["shapes"].get(path) != list(x.shape):
                raise bad_input(
                    str(self.folder / str(step)),
                    f"{path} has shape {meta['shapes'].get(path, 'none: it is not there')}",
                    f"{list(x.shape)}",
                    "use the config that this checkpoint was trained with",
                )
        params = flatten(self._read(step, "params", nest(abstract(like, shardings))))
        found, saved = value_sums(params).sums, meta["sums"]["params"]
        for path, value in found.items():
            if value != saved.get(path):
                raise damaged_checkpoint(
                    self.folder / str(step), f"{path} has other values than were saved"
                )
        return params

    def _read(self, step: int, item: str, target: Any) -> Any:
        """The part of an item that `target` (shapes with shardings) names."""
        restore = ocp.args.PyTreeRestore(
            item=target,
            restore_args=ocp.checkpoint_utils.construct_restore_args(target),
            partial_restore=True,
        )
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**{item: restore}))[item]
        except Exception as e:  # Orbax and TensorStore have many words for a broken file
            reason = " ".join(str(e).split())[:200]
            raise damaged_checkpoint(
                self.folder / str(step), f"it cannot be read ({reason})"
            ) from e

    def close(self) -> None:
        """Waits for the last write, and for its errors."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()
        self._manager.close()


def check_opt(step_folder: Path, meta: dict[str, Any], opt: Flat) -> None:
    """Compares the optimizer's state with what was saved.

    Raises:
        DamagedCheckpoint: it has other values.
    """
    if content_hash(value_sums(opt).sums) != meta["sums"]["opt"]:
        raise damaged_checkpoint(
            step_folder, "the optimizer's state has other values than were saved"
        )


def abstract(tree: Any, shardings: Any) -> Any:
    """Shapes with shardings: what is restored into."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )
