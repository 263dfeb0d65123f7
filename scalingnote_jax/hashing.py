"""Content hashes: a step is skipped, and an artefact trusted, by what it was made from, never by
its time stamp.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any


def content_hash(obj: Any) -> str:
    """SHA-256 (hex) of `obj` as canonical JSON; dataclasses, tuples and paths are allowed."""
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def file_hash(path: str | Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def tree_hash(folder: str | Path) -> str:
    """SHA-256 (hex) over the relative names and contents of all files below `folder`."""
    folder = Path(folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return content_hash([[p.relative_to(folder).as_posix(), file_hash(p)] for p in files])


def _plain(obj: Any) -> Any:
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {"__class__": type(obj).__name__, **dataclasses.asdict(obj)}
    if isinstance(obj, Path):
        return obj.as_posix()
    raise TypeError(f"{type(obj).__name__} has no canonical JSON form")
