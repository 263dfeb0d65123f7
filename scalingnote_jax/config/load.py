"""From a config file and `--section.field=value` words to a checked `Config`.

A config is a Python file with `get_config() -> Config`: a path, or the name of one that comes with
the package. Overrides are parsed by tyro; the field's name is checked before it, so that a typing
error names the nearest field in one line. What the values must be is in `validate.py`.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import io
import re
import typing
from importlib import resources
from pathlib import Path
from typing import Any

from scalingnote_jax.config import Config
from scalingnote_jax.config.check_fields import fix_for
from scalingnote_jax.config.hints import field_hints, in_words, item_of
from scalingnote_jax.config.smoke import shrunk
from scalingnote_jax.config.validate import validate
from scalingnote_jax.config.values import CONFIG_FILE, field_values, read_workdir_config
from scalingnote_jax.errors import UserError, bad_input

_Made = typing.TypeVar("_Made")
_NEAR = 0.8  # how alike a word must be to be suggested, from 0 to 1


def load_config(
    path: str | Path, overrides: list[str] | None = None, smoke: bool = False
) -> Config:
    """The config of a Python file with `overrides` ("--train.batch_size=8", …) applied, validated.

    Args:
        path: the file, a workdir's `config.json`, or the name of a shipped config.
        smoke: shrink the file's config (see `smoke.py`) before the overrides.

    Raises:
        UserError: no such file, no `get_config` in it, an unknown field, a value of another type,
            or what `validate` refuses.
    """
    path = find_file(path, "get_config")
    if path.name == CONFIG_FILE:  # of a workdir
        config = read_workdir_config(path.parent)
    else:
        config = made_by(path, "get_config", Config)
    config = apply_overrides(shrunk(config) if smoke else config, overrides or [])
    validate(config)
    return config


def find_file(name: str | Path, function: str) -> Path:
    """The file of a path, or of the name of a shipped one ("quickstart").

    Args:
        function: what such a file defines: "get_config" or "get_sweep".

    Raises:
        UserError: there is none; the message lists the shipped ones.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = _shipped(function)
    if path.parent == Path() and path.stem in shipped:
        return shipped[path.stem]
    near = difflib.get_close_matches(path.stem, shipped, n=1, cutoff=_NEAR)
    fix = f"did you mean {near[0]}?" if near else "check the path, or take one of these"
    expected = f"a Python file with {function}(), or a name: {', '.join(shipped)}"
    raise bad_input(str(name), "no such file", expected, fix)


def _shipped(function: str) -> dict[str, Path]:
    """Name → file of those in the wheel or, in a clone, in the folder beside the package."""
    try:
        folder = Path(str(resources.files("scalingnote_jax.configs")))
    except ModuleNotFoundError:
        folder = Path(__file__).parents[2] / "configs"
    files = sorted(folder.rglob("[!_]*.py"), key=lambda file: file.stem)
    return {file.stem: file for file in files if f"def {function}(" in file.read_text()}


def made_by(path: Path, function: str, kind: type[_Made]) -> _Made:
    """What a function of a Python file returns.

    Raises:
        UserError: the file cannot be run, has no such function, or it returns something else.
    """
    spec = importlib.util.spec_from_file_location(
        f"scalingnote_{kind.__name__.lower()}_{path.stem}", path
    )
    wanted = f"{function}() -> {kind.__name__}"
    if spec is None or spec.loader is None:
        raise bad_input(str(path), "not a Python file", wanted, "name a .py file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        made = getattr(module, function)()
    except UserError:  # of a config that this one starts from
        raise
    except Exception as e:
        raise bad_input(str(path), f"{type(e).__name__}: {e}", wanted, "correct the file") from e
    if not isinstance(made, kind):
        given = f"{function}() returned {type(made).__name__}"
        raise bad_input(str(path), given, f"a {kind.__name__}", "correct the file")
    return made


def apply_overrides(config: Config, overrides: list[str]) -> Config:
    """`config` with "--section.field=value" words applied, in order. Not validated."""
    for word in overrides:
        config = _apply_one(config, word)
    return config


def _apply_one(config: Config, word: str) -> Config:
    match = re.fullmatch(r"--([A-Za-z0-9_.-]+)=(.*)", word, flags=re.DOTALL)
    if not match:
        raise bad_input(repr(word), "not an override", "--section.field=value", "write it with '='")
    name, value = match[1].replace("-", "_"), match[2]
    fields = field_values(config)
    if name not in fields:
        raise _unknown(name, fields)
    hint = _hint_of(config, name)
    if item_of(hint) is not None:  # tyro takes a tuple as separate words
        words = [f"--{name}", *[w for w in value.split(",") if w]]
    elif hint is bool:
        words = [f"--{name}", {"true": "True", "false": "False"}.get(value.lower(), value)]
    else:
        words = [f"--{name}={value}"]
    import tyro  # slow to import, and a config without overrides has no need of it

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
        given = tuple(words[1:]) if item_of(hint) is not None else value
        fix = fix_for(name, hint, given, fields[name])
        raise bad_input(f"--{name}", f"cannot take {value!r}", in_words(hint), fix) from e


def _unknown(name: str, fields: dict[str, Any]) -> UserError:
    """What to say of a name that is no leaf field."""
    *parents, last = name.split(".")
    if any(field.startswith(f"{name}.") for field in fields):
        fix = f"`scalingnote config {name}` lists them"
        if f"{name}.duration" in fields:
            fix += f"; --{name}.duration= (nothing) leaves a stage out"
        return bad_input(f"--{name}", "a section", f"--{name}.FIELD=value, a field of it", fix)
    for end in range(len(parents), 0, -1):
        parent = ".".join(parents[:end])
        if parent in fields:  # a leaf: a shape that is None here
            given, fix = f"{parent} is {fields[parent]!r} here", "set it in the config file"
            return bad_input(f"--{name}", given, f"a {parent} with fields", fix)
    found = [f"--{field}" for field in fields if field.rpartition(".")[2] == last]
    if not found:
        near = difflib.get_close_matches(name, fields, n=1, cutoff=_NEAR)
        found = [f"--{field}" for field in near]
    if len(found) == 1:
        fix = f"did you mean {found[0]}?"
    elif found:
        fix = f"did you mean one of {', '.join(found)}?"
    else:
        section = name.partition(".")[0]
        known = any(field.startswith(f"{section}.") for field in fields)
        fix = f"`scalingnote config{f' {section}' if known else ''}` lists the fields"
    return bad_input(f"--{name}", "no such field", "a field of the config", fix)


def _hint_of(config: Any, name: str) -> Any:
    *parents, last = name.split(".")
    for parent in parents:
        config = getattr(config, parent)
    return field_hints(type(config))[last]
