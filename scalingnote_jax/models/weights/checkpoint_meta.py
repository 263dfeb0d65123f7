"""What a checkpoint says beside its weights: step, shapes, check sums, what the stage added.

Read without Orbax, which takes half a second to import. Not for weights: `restore.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scalingnote_jax.errors import UserError, bad_input
from scalingnote_jax.files.typed_json import COUNT, Each, Rule, read_json
from scalingnote_jax.hashing import content_hash

_PLACE = ("meta", "metadata")  # where Orbax puts it, in the folder of a step
_SUM = Rule("a check sum", lambda x: isinstance(x, str) and len(x) == 16)
_FORM = {
    "step": COUNT,
    "shapes": Each([COUNT]),
    "sums": {"params": Each(_SUM), "opt": str},
    "own_hash": str,
}
_FIX = "run the step that trained it again, which goes on from the one before"


class DamagedCheckpoint(UserError):
    """A checkpoint that is not as it was saved."""


def sealed_meta(
    meta: dict[str, Any], params: dict[str, str], opt: dict[str, str]
) -> dict[str, Any]:
    """What is saved beside weights: what the stage says, check sums of both, and its own hash."""
    whole = {**meta, "sums": {"params": params, "opt": content_hash(opt)}}
    return {**whole, "own_hash": content_hash(whole)}


def read_meta(step_folder: Path) -> dict[str, Any]:
    """What was saved beside the weights, from the folder of a checkpoint.

    Raises:
        DamagedCheckpoint: it is not as it was saved.
    """
    try:
        meta: dict[str, Any] = read_json(step_folder.joinpath(*_PLACE), _FORM, "as saved", "")
    except UserError as e:
        raise damaged_checkpoint(step_folder, f"its description is damaged ({str(e)[:200]})") from e
    if content_hash({k: v for k, v in meta.items() if k != "own_hash"}) != meta["own_hash"]:
        raise damaged_checkpoint(step_folder, "its description was changed after it was saved")
    return meta


def newest_step(checkpoints: Path) -> int | None:
    """The step of the newest checkpoint in a folder of them."""
    steps = [int(path.name) for path in checkpoints.glob("*") if path.name.isdecimal()]
    return max(steps, default=None)


def damaged_checkpoint(step_folder: Path, given: str) -> DamagedCheckpoint:
    """The error for a checkpoint that is not as it was saved."""
    return DamagedCheckpoint(
        str(bad_input(str(step_folder), given, "the checkpoint as it was saved", _FIX))
    )
