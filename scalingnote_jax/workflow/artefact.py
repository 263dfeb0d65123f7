"""A folder that a step makes: it appears whole or not at all, and its manifest names every file
with its size and SHA-256, since a cut or mixed-up file gives plausible numbers.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from scalingnote_jax.errors import UserError, bad_input
from scalingnote_jax.hashing import file_hash

MANIFEST = "manifest.json"


def partial_folder(dir: Path) -> Path:
    """A fresh `<dir>.partial`; what an earlier, killed run left there goes."""
    partial = dir.with_name(dir.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def put_in_place(partial: Path, dir: Path) -> None:
    """Renames `partial` to `dir`; the old folder steps aside, never to be seen half deleted."""
    old = dir.with_name(dir.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if dir.exists():
        dir.rename(old)
    partial.rename(dir)
    shutil.rmtree(old, ignore_errors=True)


def file_entry(path: Path) -> dict[str, Any]:
    """What a manifest says of a file: its name, bytes and SHA-256."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": file_hash(path)}


def write_manifest(dir: Path, manifest: dict[str, Any]) -> None:
    """Writes `manifest.json` into a folder that is not in its place yet."""
    (dir / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def read_manifest(dir: Path, verb: str, fix: str) -> dict[str, Any]:
    """The manifest of a folder that `scalingnote verb` makes.

    Raises:
        UserError: it is absent, or not a JSON object.
    """
    path = dir / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise bad_input(
            str(path), "not there", "a finished step", f"run `scalingnote {verb}`"
        ) from None
    except ValueError as e:
        raise bad_input(str(path), f"not JSON ({e})", "the manifest as written", fix) from e
    if not isinstance(manifest, dict):
        raise bad_input(str(path), "not a JSON object", "the manifest as written", fix)
    return manifest


def check_files(dir: Path, entries: list[dict[str, Any]], fix: str) -> None:
    """Checks files against their manifest entries: there, of that size, of that hash.

    Raises:
        UserError: names the first file that is not as written.
    """
    for entry in entries:
        problem = _problem(dir / entry["file"], entry)
        if problem is not None:
            raise damaged(dir / entry["file"], problem, fix)


def damaged(path: Path, given: str, fix: str) -> UserError:
    """The error for an artefact's file that is not as written."""
    return bad_input(str(path), given, "the file as the manifest describes it", fix)


def _problem(path: Path, entry: dict[str, Any]) -> str | None:
    if not path.is_file():
        return "not there"
    size = path.stat().st_size
    if size != entry["bytes"]:
        return f"{size} bytes where the manifest says {entry['bytes']}"
    if file_hash(path) != entry["sha256"]:
        return "damaged: its SHA-256 differs from the manifest's"
    return None
