"""The layout of a workdir, and the marker that says a step is done and from what it was made.

A step's folder holds `done.json` with the hash of its inputs. It is written last, so a folder
without it is unfinished; it is compared by content, so touching a file or moving a workdir changes
nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalingnote_jax.errors import bad_input
from scalingnote_jax.files.typed_json import read_json
from scalingnote_jax.workflow.artefact import write_json
from scalingnote_jax.workflow.seal import DONE, problem_in, seal

_DONE_FORM = {"inputs": str, "output": str}


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
    """The marker of a finished step, or None.

    Raises:
        UserError: it is not as it was written.
    """
    path = folder / DONE
    if not path.exists():
        return None
    expected, fix = "what the step wrote", "delete it; `scalingnote run` then redoes the step"
    done: dict[str, Any] = read_json(path, _DONE_FORM, expected, fix)
    return done


def was_made_from(folder: Path, inputs: str) -> bool:
    """Whether the step in `folder` was finished from just these inputs, whole or not any more."""
    done = read_done(folder)
    return done is not None and done["inputs"] == inputs


def is_done(folder: Path, inputs: str, exclusive: bool = False, also: Sequence[str] = ()) -> bool:
    """Whether the step in `folder` was finished from just these inputs, and all that it made is
    there; `exclusive` and `also` as for `damage`.
    """
    return was_made_from(folder, inputs) and not damage(folder, exclusive, also)


def mark_done(
    folder: Path, inputs: str, output: str, secs: float = 0.0, also: Sequence[str] = ()
) -> None:
    """Marks a step as finished, after size and SHA-256 of every file in its folder were noted. The
    marker says the same after every run of the same inputs; what differs stands in the seal.

    Args:
        output: the content hash that later steps depend on.
        secs: what it took.
        also: files that it has made elsewhere, as paths from the folder.
    """
    seal(folder, also=also, facts={"secs": round(secs, 1)})
    write_json(folder / DONE, {"inputs": inputs, "output": output})


def damage(
    folder: Path, exclusive: bool = False, also: Sequence[str] = (), fresh: bool = False
) -> str:
    """What is wrong with a finished step's folder: "" if every file is as it was when the step was
    marked, or if there is no marker.

    Args:
        exclusive: whether a file that the step did not write is wrong, too.
        also: as for `mark_done`.
        fresh: reads all files anew.
    """
    return problem_in(folder, exclusive, also, fresh) if (folder / DONE).exists() else ""


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
    return str(done["output"])


def unmark(folder: Path) -> None:
    """Takes the marker away: the step is unfinished from now on, with all that it has made."""
    (folder / DONE).unlink(missing_ok=True)
