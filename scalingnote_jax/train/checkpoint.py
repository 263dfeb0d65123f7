"""Checkpoints of a training (Orbax): items `params`, `opt`, `meta`; written in the background.

What is saved is finite, and carries check sums of its values. When it is on the disk, the hashes of
its files are written beside it, also in the background; it is gone on from only if all of that
fits, else the checkpoint before is used. Neither random state nor the data's position is saved:
both are functions of (seed, step). Reading the weights alone is `models/weights/restore.py`.
"""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.layers.params import Flat, flatten, nest
from scalingnote_jax.models.weights.checkpoint_meta import DamagedCheckpoint, sealed_meta
from scalingnote_jax.models.weights.restore import Checkpoints, abstract, check_opt
from scalingnote_jax.models.weights.value_sums import value_sums
from scalingnote_jax.progress import say
from scalingnote_jax.train.state import TrainState
from scalingnote_jax.workflow.artefact import remove_folder
from scalingnote_jax.workflow.seal import is_sealed, problem_in, seal


class TrainingCheckpoints(Checkpoints):
    """The checkpoints of one stage, with the optimizer's state, to be written and gone on from."""

    def __init__(self, folder: Path, keep: int = 2):
        super().__init__(folder, keep)
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-hashes")
        self._hashing: Future[None] | None = None
        self._written: int | None = None  # the step that has no hashes of its files yet

    def save(self, state: TrainState, step: int, meta: dict[str, Any]) -> None:
        """Starts writing; an error of an earlier write surfaces here, not at the end of the run.

        Raises:
            UserError: a parameter or a moment is NaN or infinite. Nothing is written then.
        """
        self._manager.check_for_errors()
        params = state.params | state.frozen
        param_sums, opt_sums = value_sums(params), value_sums(_leaves(state.opt_state))
        if broken := param_sums.not_finite or opt_sums.not_finite:
            raise bad_input(
                str(self.folder / str(step)),
                f"after step {step}, {broken[0]} holds NaN or infinity",
                "finite numbers, so it is not saved",
                "lower the learning rate; the same command goes on from the checkpoint before",
            )
        shapes = {path: list(x.shape) for path, x in params.items()}
        said = json.loads(json.dumps(meta | {"step": step, "shapes": shapes}))
        self._manager.save(  # waits until the one before is written
            step,
            args=ocp.args.Composite(
                params=ocp.args.PyTreeSave(nest(params)),
                opt=ocp.args.PyTreeSave({"state": _nest_dicts(state.opt_state)}),
                meta=ocp.args.JsonSave(sealed_meta(said, param_sums.sums, opt_sums.sums)),
            ),
        )
        self._hash_files()
        self._written = step

    def resume(
        self, like: TrainState, shardings: TrainState, inputs: str
    ) -> tuple[int, TrainState] | None:
        """Step and state of the newest checkpoint that is whole; None if there is none. Damaged
        ones are named, and set aside as "N.damaged".

        Args:
            like, shardings: as for `restore`.
            inputs: what the training is made from.

        Raises:
            UserError: the checkpoint is of another config or other data.
        """
        found, refused = None, []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = step, self._whole(step, like, shardings, inputs)
                break
            except DamagedCheckpoint as e:
                say(f"{e} (set aside; the checkpoint before is used, if there is one)")
                refused.append(step)
        if refused:
            self._set_aside(refused)
        if found is not None and not is_sealed(self.folder / str(found[0])):
            self._written = found[0]  # it was killed before that
        return found

    def prune(self) -> None:
        """Removes what is older than the newest `keep`, as a killed run may have left it."""
        for step in sorted(self._manager.all_steps())[: -self._keep]:
            self._manager.delete(step)

    def _whole(self, step: int, like: TrainState, shardings: TrainState, inputs: str) -> TrainState:
        folder, share = self.folder / str(step), (jax.process_index(), jax.process_count())
        problem, meta = "", None
        try:
            meta = self.meta(step)
            problem = problem_in(folder, share=share) if is_sealed(folder) else ""
        except DamagedCheckpoint as e:
            problem = str(e)
        if mesh_lib.on_any_process(bool(problem)):
            raise DamagedCheckpoint(f"{folder}: {problem or 'another process finds it damaged'}")
        assert meta is not None
        if meta.get("inputs") != inputs:
            raise bad_input(
                str(folder),
                "a checkpoint of another config or other data",
                "the same inputs",
                "use another --workdir, or --overwrite to train anew",
            )
        return self.restore(step, like, shardings)

    def _set_aside(self, steps: list[int]) -> None:
        self._manager.close()
        mesh_lib.barrier("damaged checkpoints are known")
        if mesh_lib.first_process():
            for step in steps:
                aside = self.folder / f"{step}.damaged"
                remove_folder(aside)
                (self.folder / str(step)).rename(aside)
        mesh_lib.barrier("damaged checkpoints are aside")
        self._manager = self._open()

    def restore(self, step: int, like: TrainState, shardings: TrainState) -> TrainState:
        """The whole state at `step`, laid out by `shardings`. `like` gives structure and shapes.

        Raises:
            UserError: as `restore_params`.
        """
        params = self.restore_params(
            step, like.params | like.frozen, shardings.params | shardings.frozen
        )
        target = {"state": abstract(_nest_dicts(like.opt_state), _nest_dicts(shardings.opt_state))}
        opt = _flatten_dicts(self._read(step, "opt", target)["state"], like.opt_state)
        check_opt(self.folder / str(step), self.meta(step), _leaves(opt))
        counter = jax.device_put(np.int32(step), shardings.step)
        trained = {path: params[path] for path in like.params}
        return TrainState(counter, trained, {p: params[p] for p in like.frozen}, opt)

    def close(self) -> None:
        """Waits for the last write and for the hashes of its files, and for the errors of both."""
        super().close()
        self._hash_files()
        if self._hashing is not None:
            self._hashing.result()
        self._hasher.shutdown()

    def _hash_files(self) -> None:
        """Starts hashing the files of what was written last, this process its share of them."""
        if self._hashing is not None:
            self._hashing.result()
        if self._written is not None:
            share = jax.process_index(), jax.process_count()
            folder = self.folder / str(self._written)
            self._hashing = self._hasher.submit(seal, folder, share)
        self._written = None


def _leaves(tree: Any) -> Flat:
    """The arrays of a state by their places in it."""
    return {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


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
