"""One config in one workdir: the tasks that the method consists of there, and running them.

Stage 1 goes in rounds: train, mine hard negatives with the teacher, train again with them.
`mine.rounds` names one training for each round and where its negatives come from. The last round's
teacher and the negatives that it was trained with lie in the workdir itself, those of the round
before in rounds/0, rounds/1, and so on. Not for what the steps do: `pipeline.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from scalingnote_jax import pipeline
from scalingnote_jax.brought import steps as brought
from scalingnote_jax.config import Config
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.errors import UserError, bad_input
from scalingnote_jax.losses.distill import needs_documents
from scalingnote_jax.vectors.encode import side_vectors
from scalingnote_jax.vectors.pairing import run_towers
from scalingnote_jax.workflow.engine import Task, run_task
from scalingnote_jax.workflow.workdir import Workdir, output_of

Reads = dict[str, Task]


def tasks(config: Config, workdir: Workdir) -> list[Task]:
    """All that `run` does, in order."""
    data = Task(pipeline.data, workdir.data, workdir)
    rounds, stages = _rounds(config, workdir, data), config.stages
    read = {"data": data, "train": rounds[-1]}
    encode = brought.documents if config.encode.vectors else pipeline.documents
    documents = Task(encode, workdir.embeddings("teacher", "doc"), workdir, read)
    made: Reads = {**read, "encode": documents}
    if stages.distills:
        # Without a term that compares scores only the probe looks at documents, if they are there
        looks = {} if needs_documents(config.distill) else {"documents": documents}
        given = read if looks else made
        stage_2 = brought.distill if config.distill.query_vectors else pipeline.distill
        distill = Task(stage_2, workdir.student, workdir, given, looks)
        made = {**made, "distill": distill}
    if stages.refines:
        made = {**made, "refine": Task(pipeline.refine, workdir.refined, workdir, made)}
    read = {name: made[name] for name in ("data", "train", "encode")}
    index = Task(pipeline.index, workdir.index, workdir, read)
    judged = pipeline.evaluation if config.data.source != "none" else brought.evaluation
    evaluation = Task(judged, workdir.eval, workdir, {**made, "index": index})
    later = [task for name, task in made.items() if name not in ("data", "train")]
    return [data, *rounds, *later, index, evaluation]


def tasks_of(config: Config, workdir: Workdir, verb: str) -> list[Task]:
    """What a verb does: `train` is all rounds of mining and training, `mine` those up to the last
    training, `run` is everything; any other is one step.

    `mine` of a config without rounds is by the teacher that there is, for its statistics.

    Raises:
        UserError: the config does not have that step.
    """
    every = tasks(config, workdir)
    stage1 = [task for task in every if task.step.verb in ("mine", "train")]
    if verb == "run":
        return every
    if verb == "train":
        return stage1
    if verb == "mine":
        read = {"data": every[0], "train": stage1[-1]}
        alone = Task(pipeline.mine_by_teacher, workdir.negatives, workdir, read)
        return stage1[:-1] or [alone]
    found = [task for task in every if task.step.verb == verb]
    if not found:
        given, fix = "a config without this step", f"set --{verb}.duration to have it"
        raise bad_input(verb, given, "one that has it", fix)
    return found


def run_verb(
    config: Config,
    workdir: Workdir,
    mesh: Mesh,
    verb: str,
    reuse: Sequence[Path] = (),
    overwrite: bool = False,
) -> None:
    """Runs a verb's steps; the last arguments are those of `run_task`."""
    found = tasks_of(config, workdir, verb)
    for task in found:
        again = overwrite and verb != "run" and task is found[-1]  # what the verb is for
        run_task(task, config, mesh, reuse, overwrite, again)


def encode_side(config: Config, workdir: Workdir, mesh: Mesh, tower: str, side: str) -> None:
    """The vectors of a side by a tower that no step makes."""
    output_of(workdir.data, "data")
    towers = run_towers(config.teacher, config.distill.student, config.seed, config.stages, workdir)
    given = Collection.open(workdir.data), workdir.vectors, workdir.tokens, config.encode
    side_vectors(towers.get(tower, side), *given, mesh)


def finished_metrics(config: Config, workdir: Workdir) -> dict[str, Any] | None:
    """eval/metrics.json, if it is of just what is there now."""
    try:
        if not tasks(config, workdir)[-1].is_done(config):
            return None
    except UserError:  # a step before it was not run
        return None
    return dict(json.loads((workdir.eval / "metrics.json").read_text()))


def _rounds(config: Config, workdir: Workdir, data: Task) -> list[Task]:
    """The mining and training of each round of stage 1; or the towers as they come."""
    if not config.stages.trains:
        return [Task(brought.towers, workdir.teacher, workdir)]
    found: list[Task] = []
    teacher: Task | None = None
    sources = config.mine.rounds
    for number, source in enumerate(sources):
        last = number == len(sources) - 1
        here = workdir if last else workdir.at_round(number)
        note = f"round {number + 1} of {len(sources)}, hard negatives: {source}"
        read = {"data": data}
        if source != "none":
            found.append(_mine(here, source, data, teacher, note))
            read["mine"] = found[-1]
        if teacher is not None and config.mine.continue_weights:
            read["before"] = teacher
        # With fewer rounds this was the last one, in the workdir itself
        earlier = None if last else workdir.teacher
        said = note if len(sources) > 1 and source == "none" else ""
        teacher = Task(pipeline.train, here.teacher, here, read, earlier=earlier, note=said)
        found.append(teacher)
    return found


def _mine(here: Workdir, source: str, data: Task, teacher: Task | None, note: str) -> Task:
    if source != "teacher":
        step, options = pipeline.mine_by_words, {"source": source}
        return Task(step, here.negatives, here, {"data": data}, options=options, note=note)
    assert teacher is not None, "checked: the first round has no teacher"
    read = {"data": data, "train": teacher}
    return Task(pipeline.mine_by_teacher, here.negatives, here, read, note=note)
