"""All artefacts of a workdir, each read anew and compared with its hashes: for `doctor WORKDIR`,
which trusts neither a marker nor what this machine has seen before. It looks, and changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from scalingnote_jax.errors import UserError
from scalingnote_jax.workflow.artefact import MANIFEST, manifest_problem
from scalingnote_jax.workflow.seal import DONE, RESTS, is_sealed, problem_in
from scalingnote_jax.workflow.workdir import damage, read_done


@dataclass(frozen=True)
class Finding:
    """What was found of one folder or file.

    Attributes:
        name: from the workdir.
        kind: "step"; "checkpoint", the newest, or one of an unfinished training; "old checkpoint";
            "cache", which is made again when it is needed; or "rest" of a run that was killed.
        problem: "" if it is whole.
    """

    name: str
    kind: str
    problem: str

    @property
    def needed(self) -> bool:
        """Whether something is lost with it; all else may be deleted."""
        return self.kind in ("step", "checkpoint")


def survey_workdir(root: Path, also: Mapping[str, tuple[str, ...]]) -> Iterator[Finding]:
    """What is in a workdir.

    Args:
        also: of steps, by the name of their folder, the files that they make elsewhere.
    """
    for at, folders, files in os.walk(root):
        folder, name = Path(at), Path(at).relative_to(root).as_posix()
        folders.sort()
        for rest in [f for f in (*folders, *files) if f.endswith(RESTS)]:
            yield Finding((folder / rest).relative_to(root).as_posix(), "rest", "")
        folders[:] = [f for f in folders if not f.endswith(RESTS)]
        if DONE in files:
            yield Finding(name, "step", _of_step(folder, also.get(folder.name, ())))
        elif MANIFEST in files:
            yield Finding(name, "cache", manifest_problem(folder, fresh=True))
        if folder.name == "checkpoints":
            steps = sorted((f for f in folders if f.isdecimal()), key=int)
            finished = (folder.parent / DONE).exists()
            for step in steps:
                kind = "old checkpoint" if finished and step != steps[-1] else "checkpoint"
                # One without hashes was written as the run ended; its values have check sums
                sealed = is_sealed(folder / step)
                problem = problem_in(folder / step, fresh=True) if sealed else ""
                yield Finding(f"{name}/{step}", kind, problem)
            folders.clear()


def _of_step(folder: Path, also: tuple[str, ...]) -> str:
    try:
        read_done(folder)
    except UserError as e:
        return str(e)
    return damage(folder, also=also, fresh=True)
