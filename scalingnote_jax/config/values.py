"""A config as plain values: its leaf fields by name, JSON and back, the copy in a workdir, a hash
of sections.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

from scalingnote_jax.config import Config
from scalingnote_jax.config.check_fields import check_fields
from scalingnote_jax.errors import UserError, bad_input
from scalingnote_jax.files.guard import reading
from scalingnote_jax.files.typed_json import read_json
from scalingnote_jax.hashing import content_hash

CONFIG_FILE = "config.json"  # in a workdir: the config that it was made with

_Section = typing.TypeVar("_Section")


def to_json(config: Any) -> dict[str, Any]:
    """The config as plain JSON values (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_json(values: dict[str, Any]) -> Config:
    """The inverse of `to_json`."""
    return _build(Config, values)


def section_from_json(kind: type[_Section], values: dict[str, Any]) -> _Section:
    """The inverse of `to_json` for a section of a config."""
    section: _Section = _build(kind, values)
    return section


def _build(cls: Any, values: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(cls)
    return cls(**{name: _coerce(hints[name], value) for name, value in values.items()})


def _coerce(hint: Any, value: Any) -> Any:
    if isinstance(value, dict):
        options = [t for t in (typing.get_args(hint) or (hint,)) if dataclasses.is_dataclass(t)]
        # A union of shapes is told apart by its field names; an older version wrote fewer.
        known = [t for t in options if set(value) <= {f.name for f in dataclasses.fields(t)}]
        return _build(known[0] if known else options[0], value)
    return tuple(value) if isinstance(value, list) else value


def section_hash(*sections: Any) -> str:
    """Content hash of config sections: part of what a step was made from."""
    return content_hash([to_json(s) if dataclasses.is_dataclass(s) else s for s in sections])


def field_values(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every leaf field as "section.field" → value."""
    out: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            out |= field_values(value, f"{prefix}{f.name}.")
        else:
            out[f"{prefix}{f.name}"] = value
    return out


def read_workdir_config(workdir: Path) -> Config:
    """The config that a workdir was made with.

    Raises:
        UserError: there is none, or it is not as `scalingnote` writes it.
    """
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise bad_input(
            str(workdir), "no config.json in it", "a workdir", "make it with `scalingnote run`"
        )
    expected, fix = "the config that `scalingnote` wrote", "use a new --workdir"
    values = read_json(path, {}, expected, fix)
    with reading(path, expected, fix):
        config = from_json(values)
        try:
            check_fields(config)
        except UserError as e:
            raise UserError(f"{path}: {e}") from e
    return config
