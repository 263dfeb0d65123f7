"""The layout of a workdir, and the marker that says a step is done and from what it was made.

A step's folder holds `done.json` with the hash of its inputs. It is written last, so a folder
without it is unfinished; it is compared by content, so touching a file or moving a workdir changes
nothing.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalingnote_jax.errors import bad_input
from scalingnote_jax.hashing import file_hash

DONE = "done.json"


class Workdir:
    """Paths below `--workdir`.

    Args:
        student: another workdir, or a student's folder, whose student is used instead of its own.

    Raises:
        UserError: a URL, which would be taken for a folder of that name.
    """

    def __init__(self, root: str | Path, student: str | Path | None = None):
        if "://" in str(root):
            raise bad_input(
                "--workdir", str(root), "a folder", "mount the bucket and give the folder's path"
            )
        self.root = Path(root)
        self.data = self.root / "data"
        self.tokens = self.root / "data" / "tokens"
        self.vectors = self.root / "embeddings"
        self.teacher = self.root / "teacher"
        self.negatives = self.root / "negatives"
        self.student = _student_in(Path(root if student is None else student))
        self.refined = self.student / "refined"  # of stage 3; goes when the student goes
        self.index = self.root / "index"
        self.hybrid = self.root / "hybrid"  # made when it is first asked for
        self.eval = self.root / "eval"
        self.report = self.root / "report.html"

    def embeddings(self, tower: str, side: str) -> Path:
        """The vectors of a side ("query", "doc") by a tower ("teacher", "student", …)."""
        return self.vectors / f"{tower}-{side}"

    def at_round(self, number: int) -> Workdir:
        """The same data, with the negatives, the teacher and its vectors of an earlier round of
        stage 1.
        """
        other, folder = copy.copy(self), self.root / "rounds" / str(number)
        other.negatives, other.teacher = folder / "negatives", folder / "teacher"
        other.vectors = folder / "embeddings"
        return other

    def with_collection(self, name: str) -> Workdir:
        """The same towers, with the data, tokens and vectors of another collection."""
        other, folder = copy.copy(self), self.root / "collections" / name
        other.data, other.tokens = folder / "data", folder / "data" / "tokens"
        other.vectors = folder / "embeddings"
        return other


def _student_in(place: Path) -> Path:
    """The student's folder of a workdir; or the place itself, if it is one."""
    return place if (place / DONE).is_file() else place / "student"


def read_done(folder: Path) -> dict[str, Any] | None:
    """The marker of a finished step, or None."""
    try:
        return json.loads((folder / DONE).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as e:
        raise bad_input(
            str(folder / DONE), "not JSON", "what the step wrote", "delete it to redo the step"
        ) from e


def was_made_from(folder: Path, inputs: str) -> bool:
    """Whether the step in `folder` was finished from just these inputs, whole or not any more."""
    done = read_done(folder)
    return done is not None and done["inputs"] == inputs


def is_done(folder: Path, inputs: str, exclusive: bool = False) -> bool:
    """Whether the step in `folder` was finished from just these inputs, and all that it made is
    there; `exclusive` as for `damage`.
    """
    return was_made_from(folder, inputs) and not damage(folder, exclusive)


def mark_done(
    folder: Path, inputs: str, output: str, secs: float = 0.0, also: Sequence[str] = ()
) -> None:
    """Marks a step as finished, with size, time and SHA-256 of every file in its folder.

    Args:
        output: the content hash that later steps depend on.
        secs: what it took.
        also: files that it has made elsewhere, as paths from the folder.
    """
    names = (*_files(folder), *also)
    files = {name: [*_stamp(folder / name), file_hash(folder / name)] for name in names}
    done = {"inputs": inputs, "output": output, "secs": round(secs, 1), "files": files}
    partial = folder / (DONE + ".partial")
    partial.write_text(json.dumps(done, indent=1) + "\n")
    partial.replace(folder / DONE)


def damage(folder: Path, exclusive: bool = False) -> str:
    """What is wrong with a finished step's folder: "" if every file is as it was when the step was
    marked. Sizes are always compared; a file is read only if its time is another one, as in a copy.

    Args:
        exclusive: whether a file that the step did not write is wrong, too.
    """
    files = (read_done(folder) or {}).get("files", {})
    for name, (size, time, sha256) in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is gone"
        size_now, time_now = _stamp(path)
        if size_now != size:
            return f"{name} has {size_now} bytes of {size}"
        if time_now != time and file_hash(path) != sha256:
            return f"{name} has changed"
    foreign = [name for name in _files(folder) if name not in files] if exclusive else []
    return f"{foreign[0]} was not written by the step" if foreign else ""


def is_untouched(folder: Path) -> bool:
    """Whether every file of a finished step has the size and the time that it was marked with; none
    is read.
    """
    files = (read_done(folder) or {}).get("files", {})
    try:
        return bool(files) and all(_stamp(folder / f) == (s, t) for f, (s, t, _) in files.items())
    except OSError:
        return False


def _files(folder: Path) -> list[str]:
    """Of a step, but for those of a step inside of its folder (`student/refined`)."""
    inner = [marker.parent for marker in folder.glob(f"*/**/{DONE}")]
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name != DONE and not any(i in path.parents for i in inner)
    )


def _stamp(path: Path) -> tuple[int, int]:
    return path.stat().st_size, path.stat().st_mtime_ns


def output_of(folder: Path, verb: str) -> str:
    """The content hash of a finished step's output.

    Raises:
        UserError: the step was not run yet; `verb` is the one to run.
    """
    done = read_done(folder)
    if done is None:
        raise bad_input(
            str(folder),
            "not there or not finished",
            "a finished step",
            f"run `scalingnote {verb}` first",
        )
    return done["output"]


def clear(folder: Path) -> None:
    """Removes an artefact that is going to be made anew."""
    if folder.is_dir():
        shutil.rmtree(folder)
