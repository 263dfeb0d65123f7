"""The optimizer: AdamW with a warm-up, a clipped gradient, no decay on norms, biases and the
temperature, and a rate of its own for the last. As an option it skips batches whose loss or
gradient is far out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from operator import eq
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from scalingnote_jax.config import OptimConfig
from scalingnote_jax.models.layers.params import Axes, is_matrix
from scalingnote_jax.train.durations import steps_of


def learning_rate(cfg: OptimConfig, total_steps: int) -> optax.Schedule:
    """Step → learning rate: linear warm-up, then cosine or linear to zero, or constant."""
    warmup = steps_of(
        "optim.warmup",
        cfg.warmup,
        batch_size=1,
        steps_per_epoch=total_steps,
        total_steps=total_steps,
    )
    peak, rest = cfg.learning_rate, max(total_steps - warmup, 1)
    after = {
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "constant": optax.constant_schedule(peak),
    }[cfg.schedule]
    # Starts above zero: a first step that moves nothing would be wasted.
    ramp = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([ramp, after], [warmup])


def make_optimizer(
    cfg: OptimConfig,
    total_steps: int,
    axes: dict[str, Axes],
    own_rates: Mapping[str, float] | None = None,
) -> optax.GradientTransformation:
    """AdamW over a flat dict of parameters. Decay only where it means something: on matrices.

    Args:
        axes: the logical axes of each parameter.
        own_rates: path → highest learning rate, of parameters that do not have the config's.
    """

    def at(chosen: Callable[[str], bool]) -> Callable[[optax.Params], optax.Params]:
        return lambda params: jax.tree_util.tree_map_with_path(
            lambda path, _: chosen(path[-1].key), params
        )

    steps = [
        optax.clip_by_global_norm(cfg.clip_norm),
        optax.adamw(
            learning_rate(cfg, total_steps),
            weight_decay=cfg.weight_decay,
            mask=at(lambda path: is_matrix(axes[path])),
            mu_dtype=cfg.moment_dtype,
        ),
    ]
    for own, rate in (own_rates or {}).items():
        # AdamW's step is a multiple of the rate, so that it can be made another one's afterwards
        scale = optax.scale(rate / cfg.learning_rate)
        steps.append(optax.masked(scale, at(partial(eq, own))))
    chain = optax.chain(*steps)
    return skip_spikes(chain, cfg.skip_spikes) if cfg.skip_spikes else chain


SPIKE_WINDOW = 128  # steps; nothing is a spike before half of them


class SpikeState(NamedTuple):
    """What `skip_spikes` carries.

    Attributes:
        inner: the state of the optimizer inside.
        seen: float32 [2, W], loss and gradient norm of the last W steps, in turns.
        steps: int32, that were seen.
        skipped: int32, batches that were not learned.
    """

    inner: Any
    seen: jax.Array
    steps: jax.Array
    skipped: jax.Array


def skip_spikes(
    inner: optax.GradientTransformation, factor: float, window: int = SPIKE_WINDOW
) -> optax.GradientTransformationExtraArgs:
    """`inner`, but for batches whose loss or gradient norm is not finite, or more than `factor`
    standard deviations above the mean of the last `window`: they change neither parameters nor
    moments. `update` also takes `value`, the loss.
    """

    def init(params: optax.Params) -> SpikeState:
        zero = jnp.zeros((), jnp.int32)
        return SpikeState(inner.init(params), jnp.zeros((2, window)), zero, zero)

    def update(
        grads: optax.Updates,
        state: SpikeState,
        params: optax.Params | None = None,
        *,
        value: jax.Array,
        **_: Any,
    ) -> tuple[optax.Updates, SpikeState]:
        now = jnp.stack([value, optax.tree.norm(grads)]).astype(jnp.float32)
        known = jnp.arange(window) < state.steps
        number = jnp.maximum(known.sum(), 1)
        mean = jnp.where(known, state.seen, 0.0).sum(1) / number
        spread = jnp.where(known, jnp.square(state.seen - mean[:, None]), 0.0).sum(1) / number
        limit = mean + factor * jnp.sqrt(spread)
        limit = jnp.where(state.steps >= max(2, window // 2), limit, jnp.inf)
        finite = jnp.isfinite(now).all()
        skip = ~finite | (now > limit).any()
        # A spike counts as no more than the limit: the next one is measured by the same scale
        slot = state.seen.at[:, state.steps % window].set(jnp.minimum(now, limit))
        new, moved = inner.update(grads, state.inner, params)
        return jax.tree.map(lambda x: jnp.where(skip, jnp.zeros_like(x), x), new), SpikeState(
            jax.tree.map(lambda x, y: jnp.where(skip, x, y), state.inner, moved),
            jnp.where(finite, slot, state.seen),
            state.steps + finite.astype(jnp.int32),
            state.skipped + skip.astype(jnp.int32),
        )

    return optax.GradientTransformationExtraArgs(init, update)
