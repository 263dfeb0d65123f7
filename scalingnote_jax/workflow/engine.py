"""How a step of the method is declared, and what is done with the declaration.

A step is a plain function. It says which outputs of other steps and which parts of the config it
reads. The engine makes the hash of its inputs from just that and hands over just that: what was not
declared cannot be read, so nothing that was made can be stale without being noticed. A step whose
folder was finished from the same hash is not run again. Not for what the steps are: `pipeline.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from scalingnote_jax.config.neutral import is_neutral
from scalingnote_jax.config.values import field_values
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import bad_input
from scalingnote_jax.hashing import content_hash
from scalingnote_jax.progress import say
from scalingnote_jax.workflow.artefact import drop_aside, recover, set_aside
from scalingnote_jax.workflow.reuse import move_over, take_over
from scalingnote_jax.workflow.workdir import (
    Workdir,
    damage,
    is_done,
    mark_done,
    output_of,
    read_done,
    unmark,
    was_made_from,
)


class Undeclared(AttributeError):
    """A step reads what it did not declare: a fault of the step, not of the user."""


class Settings:
    """The declared parts of a config. Any other field raises `Undeclared`."""

    def __init__(self, config: Any, paths: Sequence[str], owner: str):
        self._config, self._paths, self._owner = config, tuple(paths), owner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._config, name)
        if name in self._paths:
            return value
        inside = [p.removeprefix(f"{name}.") for p in self._paths if p.startswith(f"{name}.")]
        if not inside:
            raise Undeclared(f"{self._owner} reads {name}, which it does not declare")
        return Settings(value, inside, f"{self._owner}, {name}")


@dataclass(frozen=True)
class Output:
    """What a finished step has made.

    Attributes:
        folder: where it is.
        hash: of its content.
    """

    folder: Path
    hash: str


class Made:
    """The outputs of the declared steps, by their names in the declaration; None for one that this
    run does not have. Any other name raises `Undeclared`.
    """

    def __init__(self, outputs: Mapping[str, Output | None], owner: str):
        self._outputs, self._owner = outputs, owner

    def __getattr__(self, name: str) -> Any:
        if name not in self._outputs:
            raise Undeclared(f"{self._owner} reads {name}, which it does not declare")
        return self._outputs[name]


@dataclass(frozen=True)
class Place:
    """Where a step writes.

    Attributes:
        folder: what it makes goes here, whole or not at all.
        workdir: the layout around it, for what is kept beside the steps: token tables and vectors,
            which say themselves what they were made from.
        mesh: the devices.
        inputs: the hash of all that it reads.
    """

    folder: Path
    workdir: Workdir
    mesh: Mesh
    inputs: str


@dataclass(frozen=True)
class Step:
    """A declared step.

    Attributes:
        verb: its name on the command line.
        make: (made, settings, place, **options); leaves everything in place.
        reads: names of the outputs that it reads.
        looks: names of outputs that it looks at, if they are there, for figures that change nothing
            of what it makes; not hashed.
        sections: the parts of the config that it reads, such as "train" or "teacher.query".
        output: its folder → the content hash of what it made, on which other steps depend.
        outside: (settings, **options) → what else it is made from, such as the hash of files that
            the config names.
        resumes: whether an unfinished folder is gone on with.
        exclusive: whether a file that it did not write makes its folder unusable.
        also: files that it makes elsewhere, as paths from its folder.
    """

    verb: str
    make: Callable[..., None]
    reads: tuple[str, ...]
    sections: tuple[str, ...]
    output: Callable[[Path], str]
    outside: Callable[..., Any] | None = None
    resumes: bool = False
    looks: tuple[str, ...] = ()
    exclusive: bool = False
    also: tuple[str, ...] = ()


def step(
    verb: str, reads: tuple[str, ...], sections: tuple[str, ...], **more: Any
) -> Callable[[Callable[..., None]], Step]:
    """Declares a function as a step; `more` are the other attributes of `Step`."""
    return lambda make: Step(verb, make, reads, sections, **more)


@dataclass(frozen=True)
class Task:
    """A step at its place in one run.

    Attributes:
        folder: where it writes.
        workdir: as in `Place`.
        reads: the task behind each name that the step declares; one that is not here, this run does
            not have.
        looks: likewise.
        options: further arguments of the step, hashed with the rest.
        earlier: where a config with fewer rounds has put the same output; it is moved from there.
        note: said before it is run.
    """

    step: Step
    folder: Path
    workdir: Workdir
    reads: Mapping[str, Task] = field(default_factory=dict)
    looks: Mapping[str, Task] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    earlier: Path | None = None
    note: str = ""

    def __post_init__(self) -> None:
        unknown = set(self.reads) - set(self.step.reads) | set(self.looks) - set(self.step.looks)
        assert not unknown, f"{self.step.verb} does not declare {sorted(unknown)}"

    @property
    def output(self) -> Output:
        """What it has made.

        Raises:
            UserError: it is not finished.
        """
        return Output(self.folder, output_of(self.folder, self.step.verb))

    @property
    def whole_output(self) -> Output:
        """`output`, once it is seen to be whole.

        Raises:
            UserError: it is not finished, or a file is not as it was made.
        """
        if wrong := self.damage:
            fix = f"run `scalingnote {self.step.verb}` again, which makes it anew"
            raise bad_input(str(self.folder), wrong, "what the step has made", fix)
        return self.output

    def made(self) -> Made:
        """What the step may read of the steps before."""
        outputs: dict[str, Output | None] = dict.fromkeys((*self.step.reads, *self.step.looks))
        hashes = mesh_lib.first_decides(f"{self.step.verb} reads", self._hashes)
        tasks = {**self.reads, **self.looks}
        outputs |= {name: Output(tasks[name].folder, hash_) for name, hash_ in hashes.items()}
        return Made(outputs, self.step.verb)

    def _hashes(self) -> dict[str, str]:
        there = [task for task in self.looks.items() if read_done(task[1].folder)]
        seen = {name: task.whole_output.hash for name, task in self.reads.items()}
        return seen | {name: task.output.hash for name, task in there}

    def settings(self, config: Any) -> Settings:
        """What the step may read of the config."""
        return Settings(config, self.step.sections, self.step.verb)

    def inputs(self, config: Any) -> str:
        """The hash of all that the step is made from.

        Raises:
            UserError: a step that it reads is not finished.
        """
        outside, options = self.step.outside, dict(self.options)
        return content_hash(
            {
                "config": declared_values(config, self.step.sections),
                "outputs": {name: task.output.hash for name, task in self.reads.items()},
                "outside": outside(self.settings(config), **options) if outside else None,
                "options": options,
            }
        )

    def is_done(self, config: Any) -> bool:
        """Whether it was finished from just these inputs, and all that it made is there."""
        return is_done(self.folder, self.inputs(config), self.step.exclusive, self.step.also)

    @property
    def damage(self) -> str:
        """What is wrong with what it has made; "" if nothing is."""
        return damage(self.folder, self.step.exclusive, self.step.also)


def declared_values(config: Any, sections: Sequence[str]) -> dict[str, Any]:
    """Field → value of the declared parts of a config, but for those that change no number."""
    return {
        name: value
        for name, value in field_values(config).items()
        if not is_neutral(name) and any(f"{name}.".startswith(f"{path}.") for path in sections)
    }


def run_task(
    task: Task,
    config: Any,
    mesh: Mesh,
    reuse: Sequence[Path] = (),
    overwrite: bool = False,
    again: bool = False,
) -> None:
    """Runs a step, or says that nothing it is made from has changed.

    Args:
        reuse: workdirs whose finished steps may be taken over.
        overwrite: what an earlier config left in the step's folder is removed instead of refused.
        again: runs it even if it was finished from the same inputs.
    """
    if task.note:
        say(task.note)
    step, folder, first = task.step, task.folder, mesh_lib.first_process()
    # No process goes by what it reads of the disk itself, which may be older than what is there
    inputs = mesh_lib.first_decides(f"{step.verb} may be there", lambda: task.inputs(config))
    if first:
        recover(folder)
        move_over(task.earlier, folder, inputs)
        take_over(folder, inputs, task.workdir, reuse)
    there, damaged = mesh_lib.first_decides(
        f"{step.verb} starts", lambda: (was_made_from(folder, inputs), task.damage)
    )
    if there and not damaged and not again:
        say(f"{step.verb}: done already, nothing that it is made from has changed")
        return
    if there and damaged:
        say(f"{step.verb}: made again, as in {folder} {damaged}")
    if first and step.resumes:  # the other steps replace their folder when the new one is whole
        if there and damaged and not overwrite:
            unmark(folder)  # it goes on from the newest checkpoint that is whole
        elif there or overwrite:
            set_aside(folder)
    mesh_lib.barrier(f"{step.verb} may write")
    folder.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    place = Place(folder, task.workdir, mesh, inputs)
    step.make(task.made(), task.settings(config), place, **task.options)
    mesh_lib.barrier(f"{step.verb} has written")
    if first:
        secs = time.monotonic() - started
        mark_done(folder, inputs, step.output(folder), secs, step.also)
        drop_aside(folder)
    mesh_lib.barrier(f"{step.verb} is done")
