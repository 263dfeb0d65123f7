"""A folder that a step makes: it appears whole or not at all, and its manifest names every file
with its size and SHA-256, since a cut or mixed-up file gives plausible numbers.

A manifest may come from a stranger. It is checked against a form, its names may not leave the
folder, and no file of it is a link: all of that before any library opens one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from scalingnote_jax.errors import UserError, bad_input
from scalingnote_jax.files.typed_json import (
    COUNT,
    NAME,
    PATH,
    SHA256,
    Each,
    Misfit,
    conform,
    read_json,
)
from scalingnote_jax.hashing import file_hash

MANIFEST = "manifest.json"
ENTRY = {"file": NAME, "bytes": COUNT, "sha256": SHA256}  # the form of a file in a manifest


def partial_folder(dir: Path) -> Path:
    """A fresh `<dir>.partial`; what an earlier, killed run left there goes."""
    recover(dir)
    partial = _beside(dir, "partial")
    _remove(partial)
    partial.mkdir(parents=True)
    return partial


def put_in_place(partial: Path, dir: Path) -> None:
    """Renames `partial` to `dir`. The old folder steps aside and is deleted when the new one is in
    its place; `recover` brings it back if the process ends in between.
    """
    old = _beside(dir, "old")
    _remove(old)
    if dir.exists():
        dir.rename(old)
    partial.rename(dir)
    _remove(old)


def recover(dir: Path) -> None:
    """Puts a folder back that a killed run had moved aside and not replaced yet."""
    old = _beside(dir, "old")
    if old.is_dir() and not dir.exists():
        old.rename(dir)


def remove_folder(dir: Path) -> None:
    """Removes a folder at once for whoever looks: it is moved aside, then deleted."""
    aside = _beside(dir, "removed")
    _remove(aside)
    if dir.is_dir():
        dir.rename(aside)
        _remove(aside)


def set_aside(dir: Path) -> None:
    """Moves a folder aside that will be made anew bit by bit; `drop_aside` deletes it then."""
    if any(dir.glob("*")):
        aside = _beside(dir, "before")
        _remove(aside)
        dir.rename(aside)


def drop_aside(dir: Path) -> None:
    """Deletes what was set aside: its replacement is whole."""
    _remove(_beside(dir, "before"))


def _beside(dir: Path, what: str) -> Path:
    return dir.with_name(f"{dir.name}.{what}")


def _remove(dir: Path) -> None:
    shutil.rmtree(dir, ignore_errors=True)


def file_entry(path: Path) -> dict[str, Any]:
    """What a manifest says of a file: its name, bytes and SHA-256."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": file_hash(path)}


def write_manifest(dir: Path, manifest: dict[str, Any]) -> None:
    """Writes `manifest.json` into a folder that is not in its place yet."""
    write_json(dir / MANIFEST, manifest)


def write_json(path: Path, values: Any) -> None:
    """Writes a JSON file that appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def read_manifest(dir: Path, verb: str, fix: str, form: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a folder that `scalingnote verb` makes.

    Args:
        form: of what the reader relies on, see `typed_json`.

    Raises:
        UserError: it is absent, or has another form.
    """
    path = dir / MANIFEST
    if not path.is_file():
        raise bad_input(str(path), "not there", "a finished step", f"run `scalingnote {verb}`")
    manifest: dict[str, Any] = read_json(path, form, "the manifest as written", fix)
    return manifest


def check_files(
    dir: Path, entries: Iterable[dict[str, Any]], fix: str, fresh: bool = False
) -> None:
    """Checks files against their manifest entries: there, no link, of that size, of that hash.

    Args:
        entries: of the form `ENTRY`; or with a path inside `dir` as "file". Without a hash (None)
            the size alone is compared.
        fresh: reads all of them anew, whatever is known of them.

    Raises:
        UserError: names the first file that is not as written.
    """
    for entry in entries:
        problem = problem_of(dir, entry["file"], entry["bytes"], entry["sha256"], fresh)
        if problem is not None:
            raise damaged(dir / entry["file"], problem, fix)


def damaged(path: Path, given: str, fix: str) -> UserError:
    """The error for an artefact's file that is not as written."""
    return bad_input(str(path), given, "the file as the manifest describes it", fix)


def problem_of(
    dir: Path, name: str, size: int, sha256: str | None, fresh: bool = False
) -> str | None:
    """What is wrong with a file of `dir`; None if it is as its manifest says."""
    path = dir / name
    if any(inner.is_symlink() for inner in (path, *path.parents) if dir in inner.parents):
        return "a link, which no step writes"
    if not path.is_file():
        return "not there"
    try:
        found = path.stat().st_size
        if found != size:
            return f"{found} bytes where the manifest says {size}"
        if sha256 is not None and file_hash(path, fresh) != sha256:
            return "damaged: its SHA-256 differs from the manifest's"
    except OSError as e:
        return f"cannot be read ({e.strerror})"
    return None


def manifest_problem(dir: Path, fresh: bool = False) -> str:
    """What is wrong with the files that the manifest of a folder lists, whatever made it; "" if
    nothing is.
    """
    try:
        manifest = read_json(dir / MANIFEST, {}, "a manifest", "make it again")
        for name, entry in _listed(manifest):
            problem = problem_of(dir, name, entry["bytes"], entry["sha256"], fresh)
            if problem is not None:
                return f"{name}: {problem}"
    except (UserError, Misfit) as e:
        return str(e)
    return ""


def _listed(manifest: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """All files that a manifest lists: {"file", …} anywhere, {"folder", "files": [{"file", …}]},
    and {"files": {path: {…}}}.
    """
    waiting: list[tuple[str, Any]] = [("", manifest)]
    while waiting:
        folder, value = waiting.pop()
        if isinstance(value, list):
            waiting += [(folder, item) for item in value]
        elif isinstance(value, dict) and "sha256" in value and "file" in value:
            conform(value, ENTRY)
            yield folder + value["file"], value
        elif isinstance(value, dict):
            if "folder" in value:
                conform(value, {"folder": NAME})
                folder += f"{value['folder']}/"
            files = value.get("files")
            if isinstance(files, dict):
                conform(files, Each({"bytes": COUNT, "sha256": SHA256}, PATH))
                yield from ((folder + name, entry) for name, entry in files.items())
            waiting += [(folder, item) for item in value.values() if isinstance(item, list | dict)]
