"""Content hashes: a step is skipped, and an artefact trusted, by what it was made from, never by
its time stamp.

A file is read once: its hash is kept for as long as path, size, times and inode stay as they are,
in this process and, between processes, in a cache of this machine (`CACHE_VARIABLE`, by default in
~/.cache). The cache lies outside of every workdir: a folder from elsewhere cannot vouch for itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

CACHE_VARIABLE = "SCALINGNOTE_CACHE"  # the folder of the cache
_CACHE_FILE = "file-hashes.txt"  # a line for each file: SHA-256, stamp, path
_CACHE_LINES = 100_000  # as it grows beyond that, only the newer half is kept
_SETTLED_SECS = 0.02  # a file that was changed later than so long ago may change within one stamp

Stamp = tuple[int, int, int, int]
"""Size, time of the last change of content and of the inode in ns, number of the inode."""

_known: dict[str, tuple[Stamp, str]] = {}
_loaded: list[Path] = []  # the cache that `_known` was filled from; empty: not yet


def content_hash(obj: Any) -> str:
    """SHA-256 (hex) of `obj` as canonical JSON; dataclasses, tuples and paths are allowed."""
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def file_hash(path: str | Path, fresh: bool = False) -> str:
    """SHA-256 (hex) of a file's bytes.

    Args:
        fresh: reads the file even if its hash is known.
    """
    _load()
    name, stamp = os.path.realpath(path), _stamp(os.stat(path))
    known = _known.get(name)
    if known is not None and known[0] == stamp and not fresh:
        return known[1]
    with open(path, "rb") as f:
        found = hashlib.file_digest(f, "sha256").hexdigest()
        after = _stamp(os.fstat(f.fileno()))
    if after == stamp and time.time() - max(stamp[1:3]) / 1e9 > _SETTLED_SECS:
        _known[name] = stamp, found
        _remember(name, stamp, found)
    return found


def tree_hash(folder: str | Path) -> str:
    """SHA-256 (hex) over the relative names and contents of all files below `folder`."""
    folder = Path(folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return content_hash([[p.relative_to(folder).as_posix(), file_hash(p)] for p in files])


def cache_folder() -> Path:
    """Where this machine's cache of hashes is."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "scalingnote_jax"


def _stamp(stat: os.stat_result) -> Stamp:
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def _load() -> None:
    """Fills `_known` from the cache, once. Without one every file is read once a process."""
    path = cache_folder() / _CACHE_FILE
    if _loaded == [path]:
        return
    _loaded[:] = [path]
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError:
        return
    for line in lines:
        with contextlib.suppress(ValueError):  # a line that was cut
            sha256, size, changed, inode_changed, inode, name = line.split(" ", 5)
            if len(sha256) == 64:
                stamp = int(size), int(changed), int(inode_changed), int(inode)
                _known[name] = stamp, sha256
    if len(lines) > _CACHE_LINES:
        _rewrite(path, lines[-_CACHE_LINES // 2 :])


def _remember(name: str, stamp: Stamp, sha256: str) -> None:
    """Appends to the cache. One that cannot be written is done without."""
    if "\n" in name:
        return
    line = _encoded(f"{sha256} {' '.join(map(str, stamp))} {name}\n")
    path = _loaded[0]
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line)  # one write: lines of several processes do not mix
        finally:
            os.close(file)


def _rewrite(path: Path, lines: list[str]) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        partial.write_bytes(_encoded("\n".join(lines)))
        partial.replace(path)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # names of files are any bytes


def _plain(obj: Any) -> Any:
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {"__class__": type(obj).__name__, **dataclasses.asdict(obj)}
    if isinstance(obj, Path):
        return obj.as_posix()
    raise TypeError(f"{type(obj).__name__} has no canonical JSON form")
