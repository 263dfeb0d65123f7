"""What a sweep file says: a Python file with `get_sweep() -> Sweep`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scalingnote_jax.config import Config
from scalingnote_jax.config.load import apply_overrides, made_by
from scalingnote_jax.errors import bad_input


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
            UserError: an unknown field, or a value that it cannot take.
        """
        return apply_overrides(self.config, words)


def load_sweep(path: str | Path) -> Sweep:
    """The sweep of a Python file.

    Raises:
        UserError: no such file, or it gives no sweep.
    """
    path = Path(path)
    wanted = "get_sweep() -> Sweep"
    if not path.is_file():
        raise bad_input(str(path), "no such file", f"a Python file with {wanted}", "see configs/")
    return made_by(path, "get_sweep", Sweep)
