"""What a sweep file says: a Python file with `get_sweep() -> Sweep`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scalingnote_jax.config import Config
from scalingnote_jax.config.load import apply_overrides, find_file, made_by
from scalingnote_jax.config.validate import validate


@dataclass(frozen=True)
class Sweep:
    """A config and the fields that vary.

    Attributes:
        config: where every field stands that does not vary.
        axes: field, as on the command line ("distill.w_mse"), → its values, in the order in which
            they are shown.
        seeds: values of `seed`; each cell runs with each of them.
        mode: "one at a time" varies each field with the others as in `config`; "grid" takes every
            combination.
    """

    config: Config
    axes: Mapping[str, tuple[Any, ...]]
    seeds: tuple[int, ...] = (0,)
    mode: Literal["one at a time", "grid"] = "one at a time"

    def config_with(self, words: list[str]) -> Config:
        """The config with overrides ("--distill.w_mse=0", …).

        Raises:
            UserError: an unknown field, or a value that it cannot take or work with.
        """
        config = apply_overrides(self.config, words)
        validate(config)
        return config


def load_sweep(path: str | Path) -> Sweep:
    """The sweep of a Python file, or of a shipped one by its name.

    Raises:
        UserError: no such file, or it gives no sweep.
    """
    return made_by(find_file(path, "get_sweep"), "get_sweep", Sweep)
