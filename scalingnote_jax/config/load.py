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
import re
import typing
from pathlib import Path
from typing import Any

import tyro

from scalingnote_jax.config import Config
from scalingnote_jax.config.smoke import shrunk
from scalingnote_jax.config.values import field_values
from scalingnote_jax.errors import bad_input
from scalingnote_jax.workflow.workdir import CONFIG_FILE, read_workdir_config

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
