"""Finished steps of other workdirs, taken over where they were made from the very same inputs: a
baseline or a cell of a sweep does not build again what another run has built.

Files become hard links where the disk allows it. That is safe because no file of a finished step is
ever written to: steps that run again make new ones and put them in the old ones' place. An
evaluation is made anew, since its report lies beside it. Not for another student beside a teacher
(`vectors/pairing.py`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from scalingnote_jax.errors import bad_input
from scalingnote_jax.progress import say
from scalingnote_jax.workflow.artefact import (
    MANIFEST,
    manifest_problem,
    partial_folder,
    put_in_place,
    remove_folder,
)
from scalingnote_jax.workflow.workdir import Workdir, is_done

# Folder of a step → whose vectors go with it. They say themselves what they were made from, so too
# many would do no harm.
_VECTORS_OF = {"data": "untrained", "teacher": "teacher", "student": "student"}


def workdirs(place: Path) -> list[Path]:
    """`place` if it is a workdir, else the workdirs in it.

    Raises:
        UserError: there are none.
    """
    found = [p.parent for p in (place / "config.json", *sorted(place.glob("*/config.json")))]
    found = [p for p in found if (p / "config.json").is_file()]
    if not found:
        raise bad_input(
            "--reuse", str(place), "a workdir, or a folder of workdirs", "check the path"
        )
    return found


def take_over(folder: Path, inputs: str, workdir: Workdir, others: Sequence[Path]) -> None:
    """Puts a step that another workdir has finished from `inputs` in the place of `folder`, unless
    that is done itself; vectors of that step's tower come with it.
    """
    own = workdir.root in folder.parents and folder != workdir.eval
    if is_done(folder, inputs) or not own:
        return
    elsewhere = (other for other in others if other.resolve() != workdir.root.resolve())
    places = (p for other in elsewhere for p in _places(other, folder.relative_to(workdir.root)))
    found = next((place for place in places if is_done(place, inputs)), None)
    if found is None:
        return
    for vectors in _vectors(found):
        _link(vectors, folder.parent / "embeddings" / vectors.name)
    _link(found, folder)
    say(f"{folder.relative_to(workdir.root)}: taken over from {found}")


def move_over(earlier: Path | None, folder: Path, inputs: str) -> None:
    """Moves a step that was finished from `inputs` from `earlier`, with the vectors of its tower,
    unless `folder` has it: rounds that are added do not make what is there again.
    """
    if earlier is None or is_done(folder, inputs) or not is_done(earlier, inputs):
        return
    for old in (*_vectors(earlier), earlier):
        new = folder.parent / old.relative_to(earlier.parent)
        remove_folder(new)
        new.parent.mkdir(parents=True, exist_ok=True)
        old.rename(new)


def _places(other: Path, place: Path) -> Iterator[Path]:
    """Where another workdir may have a step. Teachers and negatives of one that trains in rounds
    may be those of another round here.
    """
    yield other / place
    if place.name in ("teacher", "negatives"):
        yield other / place.name
        yield from sorted(other.glob(f"rounds/*/{place.name}"))


def _vectors(step: Path) -> Iterator[Path]:
    if tower := _VECTORS_OF.get(step.name):
        for manifest in sorted(step.parent.glob(f"embeddings/{tower}-*/{MANIFEST}")):
            if not manifest_problem(manifest.parent):
                yield manifest.parent


def _link(source: Path, target: Path) -> None:
    partial = partial_folder(target)
    shutil.copytree(source, partial, copy_function=_link_file, dirs_exist_ok=True)
    put_in_place(partial, target)


def _link_file(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without hard links
        shutil.copy2(source, target)
