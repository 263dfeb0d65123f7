"""The `scalingnote` command: verbs, thin. A user's mistake ends with one line and exit code 2;
`--debug` shows the traceback.
"""

from __future__ import annotations

import argparse
import difflib
import shlex
import sys
from pathlib import Path
from typing import NoReturn

from scalingnote_jax import verbs
from scalingnote_jax.devices import together
from scalingnote_jax.devices.ending import run_to_end
from scalingnote_jax.errors import UserError, bad_input
from scalingnote_jax.verbs import CONFIG_WORD, OVERRIDES

STEP_HELP = {
    "run": "all steps in order, skipping those whose inputs have not changed",
    "data": "corpus, queries and judgements → TFDS dataset",
    "train": "stage 1: both LLM towers, contrastive; as many rounds as mine.rounds says",
    "mine": "hard negatives by the trained teacher or BM25, and a table of their scores",
    "encode": "vectors of a side by a tower; by default the documents by the teacher",
    "distill": "stage 2: the small query tower",
    "refine": "stage 3, if the config has it: that tower against the frozen document vectors",
    "index": "ScaNN index over the document vectors",
    "eval": "recall, nDCG, MRR, latency; report.html",
}
OTHER_HELP = {
    "search": "answer a text query from a finished workdir",
    "serve": "a finished workdir over HTTP: search and embeddings",
    "compare": "finished workdirs side by side: trained on × tested on, and what differs",
    "sweep": "one config, some fields over lists of values: a table and a plot for each field",
    "export": "towers as a sentence-transformers or Hugging Face folder, StableHLO or ONNX",
    "plan": "does it fit that TPU slice, and how fast at best? Compiled ahead, with no TPU",
    "config": "every field of a config: type, value, meaning",
    "doctor": "what works on this machine; with WORKDIR, whether all its files are whole",
    "help": "this text, or that of a verb",
}
HELP = STEP_HELP | OTHER_HELP


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; see `{self.prog} --help`")


def main(argv: list[str] | None = None) -> int:
    """Runs one verb. Returns the exit code; see `devices/ending.py`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    words = [word for word in argv if word != "--debug"]
    command = shlex.join(["scalingnote", *argv])
    return run_to_end(lambda: _dispatch(words), command, debug=words != argv)


def _dispatch(argv: list[str]) -> None:
    verb, words = (argv[0] if argv else "help"), argv[1:]
    if verb == "--version":
        from scalingnote_jax import __version__

        print(f"scalingnote {__version__}")
    elif verb in ("-h", "--help") or (verb == "help" and not words):
        print("scalingnote VERB …; `scalingnote help VERB` says more of one\n")
        print("\n".join(f"  {name:<8} {text}" for name, text in HELP.items()))
    elif verb == "help":
        _dispatch([_known(words[0]), "--help"])
    else:
        parser = _Parser(prog=f"scalingnote {_known(verb)}", description=HELP[verb])
        if verb in STEP_HELP:
            _step(verb, parser, words)
        else:
            _OTHERS[verb](parser, words)


def _known(verb: str) -> str:
    if verb not in HELP:
        near = difflib.get_close_matches(verb, HELP, n=1)
        fix = f"did you mean `scalingnote {near[0]}`?" if near else "`scalingnote help` says more"
        raise bad_input("scalingnote", f"no verb {verb!r}", f"one of {', '.join(HELP)}", fix)
    return verb


def _step(verb: str, parser: argparse.ArgumentParser, words: list[str]) -> None:
    _add_options(verb, parser)
    args, overrides = parser.parse_known_args(words)
    together.expected = True
    from scalingnote_jax.config.load import load_config

    config = load_config(args.config, overrides, smoke=args.smoke)
    from scalingnote_jax.startup import (
        check_evaluation,
        check_on_mesh,
        check_places,
        claimed,
        completed,
        is_claimed,
    )
    from scalingnote_jax.workflow.workdir import Workdir

    workdir = Workdir(args.workdir or Path("runs") / config.name)
    new = not args.dry_run and (args.overwrite or not is_claimed(workdir.root))
    if new:
        check_places(config, verb)  # before the others are waited for

    from scalingnote_jax.devices import mesh as mesh_lib

    mesh_lib.start()
    config = completed(config, planned=args.dry_run)
    from scalingnote_jax import run
    from scalingnote_jax.train.log.profiling import PROFILE
    from scalingnote_jax.workflow.reuse import workdirs

    PROFILE.steps, PROFILE.folder = max(args.profile, 0), workdir.root / "profile"
    mesh = mesh_lib.make_mesh(config.mesh)
    if args.dry_run:
        from scalingnote_jax.plan.dry_run import dry_run

        return dry_run(
            verb,
            mesh,
            str(workdir.root),
            stages=config.stages,
            teacher=config.teacher,
            train=config.train,
            distill=config.distill,
            refine=config.refine,
        )
    check_evaluation(config)
    if mesh_lib.first_decides("a new workdir", lambda: new):
        check_on_mesh(config, verb, mesh)
    mesh_lib.barrier("the start of the run")
    with claimed(config, workdir.root, args.overwrite, verb):
        if verb == "encode" and (args.tower, args.side) != ("teacher", "doc"):
            run.encode_side(config, workdir, mesh, args.tower, args.side)
        else:
            others = workdirs(Path(args.reuse)) if args.reuse else ()
            run.run_verb(config, workdir, mesh, verb, others, args.overwrite)
    if verb in ("run", "eval") and mesh_lib.first_process():
        from scalingnote_jax.evaluate.report.result_table import print_table

        print_table(workdir)


def _add_options(verb: str, parser: argparse.ArgumentParser) -> None:
    """The options of a step."""
    parser.add_argument("config", help=CONFIG_WORD)
    parser.add_argument("--workdir", help="where everything is written (default: runs/NAME)")
    parser.add_argument(
        "--overwrite", action="store_true", help="do the step again, and what another config left"
    )
    parser.add_argument(
        "--reuse", help="a workdir, or a folder of them: steps of theirs with the same inputs serve"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print mesh, shardings, bytes; write nothing"
    )
    parser.add_argument(
        "--profile", type=int, default=0, metavar="STEPS", help="trace steps of each training"
    )
    parser.add_argument("--smoke", action="store_true", help="a tiny size: seconds on a CPU")
    if verb == "encode":
        parser.add_argument("--tower", default="teacher", help="teacher, student or untrained")
        parser.add_argument("--side", default="doc", help="doc or query")
    parser.epilog = OVERRIDES


_OTHERS = {
    "search": verbs.search,
    "serve": verbs.serve,
    "compare": verbs.compare,
    "sweep": verbs.sweep,
    "export": verbs.export,
    "plan": verbs.plan,
    "config": verbs.config,
    "doctor": verbs.doctor,
}


if __name__ == "__main__":
    raise SystemExit(main())
