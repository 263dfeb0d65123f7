"""From a config file and `--section.field=value` words to a checked `Config`, and its copy in the
workdir.

A config is a Python file with `get_config() -> Config`. Overrides are parsed by tyro; the field's
name is checked before it, so that a typing error names the nearest field in one line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib.util
import io
import json
import re
import typing
from pathlib import Path
from typing import Any

import tyro

from scalingnote_jax.config import Config
from scalingnote_jax.config.smoke import shrunk
from scalingnote_jax.errors import bad_input
from scalingnote_jax.hashing import content_hash

CONFIG_FILE = "config.json"
_Section = typing.TypeVar("_Section")
_Made = typing.TypeVar("_Made")


def load_config(
    path: str | Path, overrides: list[str] | None = None, smoke: bool = False
) -> Config:
    """The config of a Python file with `overrides` ("--train.batch_size=8", …) applied.

    Args:
        smoke: shrink the file's config (see `smoke.py`) before the overrides.

    Raises:
        UserError: no such file, no `get_config` in it, an unknown field, a value of another type.
    """
    path = Path(path)
    if not path.is_file():
        raise bad_input(
            str(path), "no such config file", "a Python file with get_config()", "see configs/"
        )
    if path.name == CONFIG_FILE:  # of a workdir
        config = read_workdir_config(path.parent)
        return apply_overrides(shrunk(config) if smoke else config, overrides or [])
    config = made_by(path, "get_config", Config)
    return apply_overrides(shrunk(config) if smoke else config, overrides or [])


def made_by(path: Path, function: str, kind: type[_Made]) -> _Made:
    """What a function of a Python file returns.

    Raises:
        UserError: the file cannot be run, has no such function, or it returns something else.
    """
    spec = importlib.util.spec_from_file_location(
        f"scalingnote_{kind.__name__.lower()}_{path.stem}", path
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        made = getattr(module, function)()
    except Exception as e:
        wanted = f"{function}() -> {kind.__name__}"
        raise bad_input(str(path), f"{type(e).__name__}: {e}", wanted, "mend the file") from e
    if not isinstance(made, kind):
        given = f"{function}() returned {type(made).__name__}"
        raise bad_input(str(path), given, f"a {kind.__name__}", "mend the file")
    return made


def apply_overrides(config: Config, overrides: list[str]) -> Config:
    """`config` with "--section.field=value" words applied, in order."""
    for word in overrides:
        config = _apply_one(config, word)
    return config


def _apply_one(config: Config, word: str) -> Config:
    match = re.fullmatch(r"--([A-Za-z0-9_.-]+)=(.*)", word, flags=re.DOTALL)
    if not match:
        raise bad_input(repr(word), "not an override", "--section.field=value", "write it with '='")
    name, value = match[1].replace("-", "_"), match[2]
    fields = field_values(config)
    if any(field.startswith(f"{name}.") for field in fields):
        fix = f"name one; --{name}.duration= (nothing) leaves a stage out"
        raise bad_input(f"--{name}", "a section", f"--{name}.FIELD=value, a field of it", fix)
    if name not in fields:
        near = difflib.get_close_matches(name, fields, n=1, cutoff=0.0)[0]
        raise bad_input(
            f"--{name}", "no such field", f"a field such as --{near}", f"did you mean --{near}?"
        )
    if isinstance(fields[name], tuple):  # tyro takes a tuple as separate words
        words = [f"--{name}", *[w for w in value.split(",") if w]]
    elif isinstance(fields[name], bool):
        words = [f"--{name}", {"true": "True", "false": "False"}.get(value.lower(), value)]
    else:
        words = [f"--{name}={value}"]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return tyro.cli(
                Config,
                args=words,
                default=config,
                config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
                use_underscores=True,
            )
    except SystemExit as e:
        now = fields[name]
        raise bad_input(
            f"--{name}",
            f"cannot take {value!r}",
            f"{_type_of(config, name)}, now {now!r}",
            "give such a value",
        ) from e


def _type_of(config: Any, name: str) -> str:
    *parents, last = name.split(".")
    for parent in parents:
        config = getattr(config, parent)
    return str({f.name: f.type for f in dataclasses.fields(config)}[last])


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


def claim_workdir(config: Config, workdir: Path, overwrite: bool) -> None:
    """Writes the resolved config into `workdir`; refuses a workdir that belongs to another config.

    Raises:
        UserError: `workdir` holds another config and `overwrite` is not set; the first differing
            field is named.
    """
    path = workdir / CONFIG_FILE
    if path.is_file() and not overwrite:
        theirs = field_values(read_workdir_config(workdir))
        ours = field_values(config)
        for name in [*ours, *theirs]:
            # A run goes on upon other devices: nothing that it makes depends on the mesh.
            if ours.get(name) != theirs.get(name) and not name.startswith("mesh."):
                raise bad_input(
                    str(path),
                    f"this workdir is of another config: {name} is {theirs.get(name)!r} there",
                    f"{ours.get(name)!r}",
                    "choose another --workdir, or add --overwrite to redo the steps that change",
                )
    workdir.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(to_json(config), indent=1) + "\n")
    partial.replace(path)


def read_workdir_config(workdir: Path) -> Config:
    """The config that a workdir was made with."""
    path = workdir / CONFIG_FILE
    try:
        return from_json(json.loads(path.read_text()))
    except FileNotFoundError as e:
        raise bad_input(
            str(workdir), "no config.json in it", "a workdir", "make it with `scalingnote run`"
        ) from e
    except (ValueError, TypeError, KeyError) as e:
        raise bad_input(
            str(path),
            f"cannot be read ({e})",
            "the config that `scalingnote` wrote",
            "use a new --workdir",
        ) from e


def section_hash(*sections: Any) -> str:
    """Content hash of config sections: part of what a step was made from."""
    return content_hash([to_json(s) if dataclasses.is_dataclass(s) else s for s in sections])
