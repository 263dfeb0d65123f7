"""The optimizer: AdamW with a warm-up, a clipped gradient, no decay on norms, biases and the
temperature, and a rate of its own for the last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from operator import eq

import jax
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
    return optax.chain(*steps)
