"""The optimizer: AdamW with a warm-up, a clipped gradient, and no decay on norms, biases and the
temperature.
"""

from __future__ import annotations

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
    cfg: OptimConfig, total_steps: int, axes: dict[str, Axes]
) -> optax.GradientTransformation:
    """AdamW over a flat dict of parameters. Decay only where it means something: on matrices.

    Args:
        axes: the logical axes of each parameter.
    """

    def decays(params: optax.Params) -> optax.Params:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: is_matrix(axes[path[-1].key]), params
        )

    return optax.chain(
        optax.clip_by_global_norm(cfg.clip_norm),
        optax.adamw(
            learning_rate(cfg, total_steps),
            weight_decay=cfg.weight_decay,
            mask=decays,
            mu_dtype=cfg.moment_dtype,
        ),
    )
