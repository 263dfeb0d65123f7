"""What is in a finished folder: every file with its size and SHA-256, written beside them when the
folder is whole, and compared ever after.

A folder inside that has a seal or a marker of its own (a checkpoint, the student of stage 3) keeps
its own files; of checkpoints, which are named by their step, the newest counts. Processes that
share a disk may seal a folder together, each some of its files. Sizes are compared always; content
is read once by each machine (`hashing.file_hash`). Not for what the folder was made from: that is
the marker, `workdir.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scalingnote_jax.errors import UserError
from scalingnote_jax.files.typed_json import COUNT, PATH, SHA256, Each, read_json
from scalingnote_jax.hashing import file_hash
from scalingnote_jax.workflow.artefact import problem_of, write_json

DONE = "done.json"  # the marker of a step
_NAME = re.compile(r"files-(\d{1,6})-of-(\d{1,6})\.json")
RESTS = (  # endings of what a killed run, or a damaged one, has left
    ".partial",
    ".old",
    ".removed",
    ".before",
    ".damaged",
)
_ENTRY = {"bytes": COUNT, "sha256": SHA256}
_FORM = {
    "files": Each(_ENTRY, PATH),
    "also?": Each(_ENTRY),  # by the names that the step declares; others are not looked at
    "secs?": float,
}


def seal(
    folder: Path,
    share: tuple[int, int] = (0, 1),
    also: Sequence[str] = (),
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Writes what is in a folder.

    Args:
        share: (i, n): process i of n takes every n-th file.
        also: files elsewhere, as paths from the folder.
        facts: further fields.
    """
    names = _names(folder)[share[0] :: share[1]]
    listed = {name: _entry(folder / name) for name in names}
    elsewhere = {"also": {name: _entry(folder / name) for name in also}} if also else {}
    path = folder / f"files-{share[0]}-of-{share[1]}.json"
    write_json(path, {**(facts or {}), "files": listed, **elsewhere})


def is_sealed(folder: Path) -> bool:
    """Whether there is a seal, of all processes that made it."""
    return bool(_seals(folder))


def seal_fact(folder: Path, name: str, default: Any = None) -> Any:
    """A further field of the seal of one process."""
    try:
        return next((read[name] for read in _read(folder) if name in read), default)
    except UserError:
        return default


def problem_in(
    folder: Path,
    exclusive: bool = False,
    also: Sequence[str] = (),
    fresh: bool = False,
    share: tuple[int, int] = (0, 1),
) -> str:
    """What is wrong in a sealed folder; "" if every file is as it was.

    Args:
        exclusive: whether a file that is not listed is wrong, too.
        also: as for `seal`.
        fresh: reads all files anew.
        share: (i, n) looks at every n-th file from number i on.
    """
    if not is_sealed(folder):
        return "the list of its files is gone"
    try:
        parts = _read(folder)
    except UserError as e:
        return f"the list of its files is damaged: {e}"
    listed: dict[str, Any] = {}
    for part in parts:
        listed |= part["files"]
        listed |= {n: e for n, e in part.get("also", {}).items() if n in also}
    for name, entry in sorted(listed.items())[share[0] :: share[1]]:
        problem = problem_of(folder, name, entry["bytes"], entry["sha256"], fresh)
        if problem is not None:
            return f"{name} is {problem}" if problem[0].isalpha() else f"{name} has {problem}"
    missing = set(also) - listed.keys()
    if missing:
        return f"{min(missing)} is not in the list of its files"
    for inner in sorted({(folder / n).parent for n in listed if _NAME.fullmatch(Path(n).name)}):
        if problem := problem_in(inner, fresh=fresh):
            return f"{inner.relative_to(folder)}: {problem}"
    foreign = sorted(set(_names(folder)) - listed.keys()) if exclusive else []
    return f"{foreign[0]} was not written by the step" if foreign else ""


def _seals(folder: Path) -> list[str]:
    """The names of a whole set of lists; none if there is no such set."""
    found: dict[int, set[int]] = {}
    for path in folder.glob("files-*-of-*.json"):
        if match := _NAME.fullmatch(path.name):
            found.setdefault(int(match[2]), set()).add(int(match[1]))
    whole = [n for n, parts in found.items() if n > 0 and parts >= set(range(n))]
    return [f"files-{i}-of-{min(whole)}.json" for i in range(min(whole))] if whole else []


def _read(folder: Path) -> list[dict[str, Any]]:
    fix = "the step is run again"
    names = _seals(folder)
    return [read_json(folder / name, _FORM, "the list as written", fix) for name in names]


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_hash(path)}


def _names(folder: Path) -> list[str]:
    """The files that a folder answers for, as paths from it."""
    return sorted(path.relative_to(folder).as_posix() for path in _walk(folder, top=True))


def _walk(folder: Path, top: bool) -> Iterator[Path]:
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    files = [e.name for e in entries if not e.is_dir(follow_symlinks=False)]
    seals = [name for name in files if _NAME.fullmatch(name)]
    if not top and DONE in files:
        return  # a step of its own
    if not top and seals:
        yield from (folder / name for name in seals)
        return
    yield from (folder / n for n in files if n != DONE and n not in seals and not _is_rest(n))
    folders = [e.name for e in entries if e.is_dir(follow_symlinks=False) and not _is_rest(e.name)]
    steps = [int(name) for name in folders if name.isdecimal()]
    for name in folders:
        if not name.isdecimal() or int(name) == max(steps):
            yield from _walk(folder / name, top=False)


def _is_rest(name: str) -> bool:
    """Whether it is what a killed run had not finished."""
    return name.endswith(RESTS) or ".orbax-checkpoint-tmp" in name
