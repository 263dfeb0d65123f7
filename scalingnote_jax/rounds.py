"""Stage 1 in rounds: train, mine hard negatives with the teacher, train again with them.

`mine.rounds` names one training for each round and where its negatives come from. The last round's
teacher and the negatives that it was trained with lie in the workdir itself, those of the round
before in rounds/0, rounds/1, and so on. Not for what mining and training do: see
`retrieval/mine.py` and `train/stage1.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING

from scalingnote_jax.config import NegativeSource, replace
from scalingnote_jax.config.values import section_hash
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.progress import say
from scalingnote_jax.retrieval.mine import mine, open_negatives
from scalingnote_jax.train.stage1 import train
from scalingnote_jax.workflow.workdir import clear, is_done

if TYPE_CHECKING:
    from scalingnote_jax.pipeline import Run


def steps_of(run: Run, verb: str) -> Iterator[tuple[str, Run]]:
    """The steps of a verb, each with the run at its round: `train` is all rounds of mining and
    training, `mine` those up to the last training; any other verb is one step.

    `mine` of a config without rounds is by the teacher that there is, for its statistics.
    """
    sources = run.config.mine.rounds
    if verb not in ("mine", "train") or (verb, sources) == ("mine", ("none",)):
        yield verb, run
        return
    for number, source in enumerate(sources):
        at = _at(run, number)
        if len(sources) > 1:
            say(f"round {number + 1} of {len(sources)}, hard negatives: {source}")
        if source != "none":
            yield "mine", at
        if at is not run:
            _adopt(run, at)
        if at is not run or verb == "train":
            yield "train", at


def mine_inputs(run: Run) -> str:
    """What the hard negatives of a round are made from."""
    config, ranker = run.config, _ranker(run)
    rules = replace(config.mine, rounds=(_source(run),), continue_weights=False)
    made_from = [rules, config.seed]
    if ranker is not None:
        vectors = [config.encode.dim, config.encode.store_dtype]
        search = [config.eval.exact.storage, config.eval.exact.recall_target]
        made_from += [config.teacher, vectors, search, ranker.output("train")]
    return section_hash(*made_from, run.output("data"))


def make_negatives(run: Run, inputs: str) -> None:
    """Mines with what the config names for the round."""
    ranker = _ranker(run)
    made_from = {"inputs": inputs, "corpus": run.collection.fingerprint, "source": _source(run)}
    if ranker is not None:
        made_from["teacher"] = ranker.output("train")
    mine(
        run.config,
        run.collection,
        run.workdir.negatives,
        _source(run),
        None if ranker is None else ranker.workdir,
        run.mesh,
        made_from,
    )


def train_inputs(run: Run) -> str:
    """What the teacher of a round is made from."""
    config = run.config
    made_from = [config.teacher, config.train, config.seed, run.output("data")]
    if config.mine.rounds[run.round] != "none":
        made_from.append(run.output("mine"))
    if run.round and config.mine.continue_weights:
        made_from.append(_at(run, run.round - 1).output("train"))
    return section_hash(*made_from)


def make_teacher(run: Run, inputs: str) -> None:
    """Trains with the negatives of the round."""
    mined = before = None
    if run.config.mine.rounds[run.round] != "none":
        mined = open_negatives(run.workdir.negatives)
    if run.round and run.config.mine.continue_weights:
        before = _at(run, run.round - 1).workdir.teacher
    train(run.config, run.collection, run.workdir, run.mesh, inputs, mined, before)


def _at(run: Run, number: int) -> Run:
    """The run at another round."""
    if number == run.round:
        return run
    other = copy.copy(run)
    other.round, other.workdir = number, run.workdir.at_round(number)
    return other


def _source(run: Run) -> NegativeSource:
    """What `mine` looks at in the run's round."""
    source = run.config.mine.rounds[run.round]
    return "teacher" if source == "none" else source


def _ranker(run: Run) -> Run | None:
    """The run whose teacher ranks the documents, that of the round before; None: none does."""
    if _source(run) != "teacher":
        return None
    return _at(run, run.round - 1) if run.round else run


def _adopt(run: Run, at: Run) -> None:
    """Takes a teacher of fewer rounds, and its vectors, for the earlier round that it is: they are
    not made again when rounds are added.
    """
    inputs, ours, theirs = train_inputs(at), run.workdir, at.workdir
    mesh_lib.barrier(f"round {at.round}")
    done = is_done(ours.teacher, inputs) and not is_done(theirs.teacher, inputs)
    if mesh_lib.first_process() and done:
        vectors = [paths.embeddings("teacher", "doc") for paths in (ours, theirs)]
        for old, new in ((ours.teacher, theirs.teacher), vectors):
            clear(new)
            new.parent.mkdir(parents=True, exist_ok=True)
            if old.is_dir():
                old.rename(new)
    mesh_lib.barrier(f"round {at.round} may train")
