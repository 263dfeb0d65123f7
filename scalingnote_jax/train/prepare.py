"""What all stages do before their first step: tables of tokens, parameters on the mesh, the jitted
step, the schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from scalingnote_jax.config import DistillConfig, RefineConfig, TrainConfig
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.layers.params import Flat
from scalingnote_jax.models.pair import LOG_SCALE
from scalingnote_jax.models.weights.placing import place
from scalingnote_jax.train.durations import steps_of
from scalingnote_jax.train.optim import learning_rate, make_optimizer
from scalingnote_jax.train.state import TrainState, make_state, split_frozen, state_shardings

StageConfig = TrainConfig | DistillConfig | RefineConfig
Step = Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Any]]


@dataclass(frozen=True)
class Schedule:
    """How long to train, and how often to log and save, all in steps."""

    total_steps: int
    log_every: int
    checkpoint_every: int
    learning_rate: optax.Schedule


def check_batch(field: str, cfg: StageConfig, mesh: Mesh) -> None:
    """Refuses a batch that the mesh, and the parts it is worked on in, cannot split evenly."""
    shards, chunks = mesh_lib.batch_shards(mesh), getattr(cfg, "encode_chunks", 1)
    for name, parts in (("accumulate", cfg.accumulate), ("encode_chunks", chunks)):
        if parts < 1:
            raise bad_input(f"--{field}.{name}", str(parts), "at least 1", "1 turns it off")
    if cfg.accumulate > 1 and getattr(cfg, "pack_documents", False):
        raise bad_input(
            f"--{field}.accumulate",
            f"{cfg.accumulate} with packed documents",
            "1: a row holds documents of queries of any part",
            f"use --{field}.encode_chunks, which changes no gradient",
        )
    multiple = shards * chunks * cfg.accumulate
    if cfg.batch_size < 1 or cfg.batch_size % multiple:
        parts = f" in {chunks * cfg.accumulate} parts" if chunks * cfg.accumulate > 1 else ""
        raise bad_input(
            f"--{field}.batch_size",
            f"{cfg.batch_size} rows over {shards} devices of the slice, data and fsdp axes{parts}",
            f"a multiple of {multiple}",
            f"set it to {max(1, -(-cfg.batch_size // multiple)) * multiple}",
        )


def make_schedule(field: str, cfg: StageConfig, steps_per_epoch: int) -> Schedule:
    """The config's durations in steps."""
    sizes = {"batch_size": cfg.batch_size, "steps_per_epoch": steps_per_epoch}
    total = steps_of(f"{field}.duration", cfg.duration, **sizes)
    if total < 1:
        raise bad_input(
            f"--{field}.duration", repr(cfg.duration), "at least one step", "train longer"
        )
    return Schedule(
        total_steps=total,
        log_every=max(1, steps_of(f"{field}.log_every", cfg.log_every, **sizes, total_steps=total)),
        checkpoint_every=max(
            1,
            steps_of(f"{field}.checkpoint_every", cfg.checkpoint_every, **sizes, total_steps=total),
        ),
        learning_rate=learning_rate(cfg.optim, total),
    )


class Prepared:
    """A stage's parameters: where they lie, how they get there, and the step on them."""

    def __init__(
        self,
        field: str,
        shapes: Flat,
        axes: dict[str, tuple[str | None, ...]],
        freeze: tuple[str, ...],
        cfg: StageConfig,
        schedule: Schedule,
        mesh: Mesh,
    ):
        trained, frozen = split_frozen(field, shapes, freeze)
        self.mesh = mesh
        self.frozen_paths = set(frozen)
        own = {LOG_SCALE: cfg.temperature_learning_rate} if isinstance(cfg, TrainConfig) else None
        self.tx = make_optimizer(cfg.optim, schedule.total_steps, axes, own)
        self.abstract: TrainState = jax.eval_shape(
            lambda t, f: make_state(t, f, self.tx), trained, frozen
        )
        self.shardings = state_shardings(self.abstract, axes, self.tx, mesh)

    def place(self, params: Flat) -> TrainState:
        """Initial parameters, as `sharding.place` takes them → the state at step 0, on the mesh;
        moments are made where they stay.
        """
        spread = self.shardings.params | self.shardings.frozen
        placed = place(params, spread)
        trained = {path: x for path, x in placed.items() if path not in self.frozen_paths}
        frozen = {path: placed[path] for path in self.frozen_paths}
        opt_state = jax.jit(self.tx.init, out_shardings=self.shardings.opt_state)(trained)
        step = jax.device_put(jax.numpy.zeros((), "int32"), mesh_lib.replicated(self.mesh))
        return TrainState(step, trained, frozen, opt_state)

    def jit(
        self,
        step: Callable[..., tuple[TrainState, Any]],
        shared: dict[str, np.ndarray] | None = None,
        **static: Any,
    ) -> Step:
        """The step, compiled per batch shape; its state is donated.

        Args:
            shared: arrays that are the same in all steps, such as statistics; every device gets
                them whole, and the step as `shared`.
        """
        rows, whole = mesh_lib.batch_sharding(self.mesh), mesh_lib.replicated(self.mesh)

        def bound(
            state: TrainState, batch: dict[str, jax.Array], *shared: dict[str, jax.Array]
        ) -> tuple[TrainState, Any]:
            more = {"shared": shared[0]} if shared else {}
            return step(state, batch, tx=self.tx, rows=rows, **more, **static)

        given = () if shared is None else (place(shared, dict.fromkeys(shared, whole)),)
        compiled = jax.jit(
            bound,
            donate_argnums=0,
            in_shardings=(self.shardings, rows, *(whole for _ in given)),
            out_shardings=(self.shardings, whole),
        )
        # Not closed over: constants of a program are compiled into it.
        return (lambda state, batch: compiled(state, batch, *given)) if given else compiled
