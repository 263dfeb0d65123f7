"""The frequencies of rotary positions, with the two ways to stretch them over longer contexts."""

from __future__ import annotations

import numpy as np

from scalingnote_jax.config import RopeScaling


def frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> np.ndarray:
    """Radians per position of each pair of dimensions, [K/2] float64."""
    plain = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    if scaling is None:
        return plain
    if scaling.kind == "linear":
        return plain / scaling.factor
    # Llama 3: what turns more than high_turns times within the old context stays, what turns less
    # than low_turns times is slowed by the factor, and in between it goes over gradually.
    turns = scaling.old_positions * plain / (2 * np.pi)
    kept = (turns - scaling.low_turns) / (scaling.high_turns - scaling.low_turns)
    kept = np.clip(kept, 0.0, 1.0)
    return plain * (kept + (1 - kept) / scaling.factor)
