"""What can be wrong with a tower's config beside its body, each in one line for the user. What the
config or the shape alone says is refused by `config/rules/tower_rules.py`.
"""

from __future__ import annotations

import re

from scalingnote_jax.config import TowerConfig
from scalingnote_jax.config.towers import Shape
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.weights.layouts import layout_of


def check_lora(cfg: TowerConfig, shape: Shape, where: str) -> None:
    """Adapters have weights to stand beside."""
    lora, field = cfg.lora, f"--{where}.lora"
    linear = [path for path, stored in layout_of(shape).stored.items() if stored.inputs]
    for pattern in lora.modules if lora.rank else ():
        if not any(re.search(pattern, path) for path in linear):
            raise bad_input(
                f"{field}.modules", repr(pattern), f"a match in {', '.join(linear)}", "change it"
            )
