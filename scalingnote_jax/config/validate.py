"""Refuses a config that cannot work, in one line, before a folder is made and before JAX or data
are touched: every field by its type and limits, then rules over several fields.

What depends on weights, data or devices is checked where those are known.
"""

from __future__ import annotations

from scalingnote_jax.config import Config
from scalingnote_jax.config.check_fields import check_fields
from scalingnote_jax.config.rules.data_rules import DATA_RULES
from scalingnote_jax.config.rules.effects import check_effects
from scalingnote_jax.config.rules.evaluation_rules import EVALUATION_RULES
from scalingnote_jax.config.rules.tower_rules import TOWER_RULES
from scalingnote_jax.config.rules.training_rules import TRAINING_RULES


def validate(config: Config) -> None:
    """
    Raises:
        UserError: names the first field that cannot be as it is.
    """
    check_fields(config)
    for rule in (*DATA_RULES, *TOWER_RULES, *TRAINING_RULES, *EVALUATION_RULES):
        rule(config)
    check_effects(config)
