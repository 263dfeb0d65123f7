"""What training carries from step to step, and where each part of it lies on the mesh.

Parameters are flat dicts {"query/body/layers/q": array}: freezing is then two dicts, and sharding,
decay and tables go by path.
No random state is kept: whatever is drawn is drawn from (seed, step).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.devices.sharding import optimizer_shardings, shardings_of
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.layers.params import Flat


@jax.tree_util.register_dataclass
@dataclass
class TrainState:
    """A pytree: `step` int32, trained and frozen parameters (disjoint flat dicts), the optimizer's
    state.
    """

    step: jax.Array
    params: Flat
    frozen: Flat
    opt_state: Any


def split_frozen(field: str, params: Flat, patterns: tuple[str, ...]) -> tuple[Flat, Flat]:
    """(trained, frozen): frozen where one of the regular expressions is found in the path.

    Raises:
        UserError: a pattern that no parameter matches, or nothing left to train.
    """
    for pattern in patterns:
        if not any(re.search(pattern, path) for path in params):
            raise bad_input(
                f"--{field}",
                repr(pattern),
                "a regular expression that matches a parameter",
                f"e.g. {min(params)}",
            )
    frozen = {path: x for path, x in params.items() if any(re.search(p, path) for p in patterns)}
    trained = {path: x for path, x in params.items() if path not in frozen}
    if not trained:
        raise bad_input(
            f"--{field}", f"{patterns} freezes every parameter", "something to train", "freeze less"
        )
    return trained, frozen


def make_state(trained: Flat, frozen: Flat, tx: optax.GradientTransformation) -> TrainState:
    """The state at step 0. Works on arrays and, under `jax.eval_shape`, on shapes."""
    return TrainState(jnp.zeros((), jnp.int32), trained, frozen, tx.init(trained))


def state_shardings(
    abstract: TrainState,
    axes: dict[str, tuple[str | None, ...]],
    tx: optax.GradientTransformation,
    mesh: Mesh,
) -> TrainState:
    """The same structure with a `NamedSharding` at each leaf."""
    params = shardings_of(abstract.params, axes, mesh)
    return TrainState(
        step=mesh_lib.replicated(mesh),  # type: ignore[arg-type]
        params=params,
        frozen=shardings_of(abstract.frozen, axes, mesh),
        opt_state=optimizer_shardings(tx, abstract.opt_state, params, mesh),
    )
