"""The `scalingnote` command: verbs, thin. A user's mistake ends with one line and exit code 2;
`--debug` shows the traceback.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path
from typing import Any, NoReturn

from scalingnote_jax.errors import UserError, bad_input

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
    "compare": "finished workdirs side by side: trained on × tested on, and what differs",
    "sweep": "one config, some fields over lists of values: a table and a plot for each field",
    "export": "towers as a sentence-transformers or Hugging Face folder, StableHLO or ONNX",
    "plan": "does it fit that TPU slice, and how fast at best? Compiled ahead, with no TPU",
    "doctor": "what works on this machine, and what to install",
}
USAGE = "scalingnote VERB …; verbs: " + ", ".join([*STEP_HELP, *OTHER_HELP])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; see `{self.prog} --help`")


def main(argv: list[str] | None = None) -> int:
    """Runs one verb. Returns the exit code: 0, 2 for a user's mistake, 130 when interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    try:
        _dispatch(argv)
        return 0
    except UserError as e:
        if debug:
            raise
        print(f"scalingnote: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "scalingnote: interrupted; the same command goes on from the last checkpoint",
            file=sys.stderr,
        )
        return 130


def _dispatch(argv: list[str]) -> None:
    verb = argv[0] if argv else "--help"
    if verb in ("-h", "--help"):
        print(
            "\n".join(
                [
                    USAGE,
                    "",
                    *(f"  {name:<8} {text}" for name, text in (STEP_HELP | OTHER_HELP).items()),
                ]
            )
        )
    elif verb in STEP_HELP:
        _step(verb, argv[1:])
    elif verb == "search":
        _search(argv[1:])
    elif verb == "export":
        _export(argv[1:])
    elif verb == "plan":
        _plan(argv[1:])
    elif verb == "compare":
        from scalingnote_jax.evaluate import compare_table as compare_command

        parser = _Parser(prog="scalingnote compare", description=OTHER_HELP["compare"])
        compare_command.main(parser, argv[1:])
    elif verb == "sweep":
        from scalingnote_jax.sweep import run_sweep as command

        parser = _Parser(prog="scalingnote sweep", description=OTHER_HELP["sweep"])
        command.main(parser, argv[1:])
    elif verb == "doctor":
        from scalingnote_jax.doctor import doctor

        _Parser(prog="scalingnote doctor", description=OTHER_HELP["doctor"]).parse_args(argv[1:])
        doctor()
    else:
        near = difflib.get_close_matches(verb, [*STEP_HELP, *OTHER_HELP], n=1, cutoff=0.0)[0]
        raise bad_input(
            "scalingnote",
            f"no verb {verb!r}",
            f"a verb such as {near!r}",
            f"did you mean `scalingnote {near}`?",
        )


def _step(verb: str, words: list[str]) -> None:
    parser = _Parser(prog=f"scalingnote {verb}", description=STEP_HELP[verb])
    parser.add_argument("config", help="a Python file with get_config(), see configs/")
    parser.add_argument(
        "--workdir", help="where everything is written (default: runs/NAME of the config)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="redo what another config left in the workdir"
    )
    parser.add_argument(
        "--reuse", help="a workdir, or a folder of them: steps of theirs with the same inputs serve"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print mesh, shardings, bytes and negatives; write nothing",
    )
    parser.add_argument(
        "--smoke", action="store_true", help="the config's tiny size: seconds on a CPU"
    )
    if verb == "encode":
        parser.add_argument("--tower", default="teacher", help="teacher, student or untrained")
        parser.add_argument("--side", default="doc", help="doc or query")
    parser.epilog = "Any field of the config is overridden as --section.field=value."
    args, overrides = parser.parse_known_args(words)
    from scalingnote_jax.config.load import load_config
    from scalingnote_jax.workflow.workdir import claim_workdir

    config = load_config(args.config, overrides, smoke=args.smoke)

    from scalingnote_jax.devices import mesh as mesh_lib

    mesh_lib.start()
    from scalingnote_jax import run
    from scalingnote_jax.workflow.reuse import workdirs
    from scalingnote_jax.workflow.workdir import Workdir

    workdir = Workdir(args.workdir or Path("runs") / config.name)
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
    run.check(config)
    if mesh_lib.first_process():
        claim_workdir(config, workdir.root, args.overwrite)
    mesh_lib.barrier("workdir")
    if verb == "encode" and (args.tower, args.side) != ("teacher", "doc"):
        run.encode_side(config, workdir, mesh, args.tower, args.side)
    else:
        others = workdirs(Path(args.reuse)) if args.reuse else ()
        run.run_verb(config, workdir, mesh, verb, others, args.overwrite)
    if verb in ("run", "eval") and mesh_lib.first_process():
        _print_table(workdir)


def _print_table(workdir: Any) -> None:
    import json

    from rich.console import Console
    from rich.table import Table

    metrics = json.loads((workdir.eval / "metrics.json").read_text())
    rows = metrics["rows"]
    names = list(rows[0]["metrics"])
    table = Table(
        "system", "search", *names, "ANN recall@10", "p50 ms", "params M", title=metrics["dataset"]
    )
    for row in rows:
        numbers = [f"{row['metrics'][name]:.3f}" for name in names]
        low, high = row["intervals"][names[0]]
        numbers[0] += f" ± {(high - low) / 2:.3f}"
        rest = [_or_dash(row["ann_recall@10"], "{:.3f}"), _or_dash(row["query_ms_p50"], "{:.2f}")]
        params = row["params_non_embedding"]
        table.add_row(
            row["system"],
            row["search"],
            *numbers,
            *rest,
            _or_dash(params and params / 1e6, "{:.1f}"),
        )
    out = Console(width=None if sys.stdout.isatty() else 140)
    out.print(table)
    if metrics.get("collections"):
        from scalingnote_jax.evaluate.compare_table import matrix_table

        out.print(matrix_table(metrics["collections"], names[0]))
    if metrics["retention"]:
        kept = ", ".join(f"{name} {value:.1%}" for name, value in metrics["retention"].items())
        out.print(f"student / teacher: {kept}")
    for line in _compared(metrics, names[0]):
        out.print(line, soft_wrap=True)
    out.print(f"report: {workdir.report}", soft_wrap=True)


def _compared(metrics: dict[str, Any], metric: str) -> list[str]:
    """The student's shipped row against the teacher's and bm25's, a line each."""
    shown = (("student/scann", "teacher/scann"), ("student/scann", "bm25/lexical"))
    lines = []
    for found in metrics.get("comparisons", ()):
        pair, sign = (found["a"], found["b"]), 1
        if pair[::-1] in shown:
            pair, sign = pair[::-1], -1
        if found["metric"] == metric and pair in shown:
            sure = "significant" if found["p_holm"] < 0.05 else "not significant"
            lines.append(
                f"{pair[0]} − {pair[1]}: {metric} {sign * found['difference']:+.3f}, "
                f"{sure} (p {found['p_holm']:.2g} after Holm)"
            )
    return lines


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _search(words: list[str]) -> None:
    parser = _Parser(prog="scalingnote search", description=OTHER_HELP["search"])
    parser.add_argument("workdir", help="a workdir that `scalingnote run` has finished")
    parser.add_argument("text", nargs="+", help="one query per argument")
    parser.add_argument("-k", type=int, default=10, help="documents per query")
    parser.add_argument("--student", help="a workdir of the same teacher, whose student answers")
    args = parser.parse_args(words)
    from scalingnote_jax.retrieval.searcher import Searcher

    searcher = Searcher.open(args.workdir, student=args.student)
    for text, hits in zip(args.text, searcher.search(args.text, args.k), strict=True):
        print(f"{text}")
        for rank, hit in enumerate(hits, 1):
            line = " ".join(hit.text.split())
            print(
                f"{rank:>4}. {hit.score:.3f}  {hit.id}  {line[:90]}{'…' if len(line) > 90 else ''}"
            )


def _export(words: list[str]) -> None:
    parser = _Parser(prog="scalingnote export", description=OTHER_HELP["export"])
    parser.add_argument("workdir", help="a workdir in which the tower is trained")
    parser.add_argument("out", help="the folder to write")
    formats = ("sentence-transformers", "hf", "stablehlo", "onnx")
    parser.add_argument("--format", required=True, choices=formats)
    parser.add_argument("--tower", default="student", choices=("student", "teacher"))
    parser.add_argument(
        "--side",
        choices=("query", "doc", "both"),
        help="default: the student's query, the teacher's doc; both: queries by the tower, "
        "documents by the teacher",
    )
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    args = parser.parse_args(words)
    from scalingnote_jax.export.export_towers import ExportRequest, export_towers
    from scalingnote_jax.run import finished_metrics
    from scalingnote_jax.vectors.pairing import served_config
    from scalingnote_jax.workflow.workdir import Workdir

    side = args.side or ("query" if args.tower == "student" else "doc")
    request = ExportRequest(args.format, args.tower, side, args.dtype)
    workdir = Workdir(args.workdir)
    metrics = finished_metrics(served_config(workdir), workdir)
    export_towers(workdir.root, request, Path(args.out), args.overwrite, metrics)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(","))


def _plan(words: list[str]) -> None:
    parser = _Parser(prog="scalingnote plan", description=OTHER_HELP["plan"])
    parser.add_argument("config", help="a Python file with get_config(), see configs/")
    parser.add_argument("--topology", required=True, help="one slice, such as v5e:16x16")
    parser.add_argument("--slices", type=int, default=1, help="slices joined by the DCN")
    parser.add_argument("--pairs", type=int, default=0, help="training pairs, for hours per epoch")
    parser.add_argument("--search", action="store_true", help="find the best mesh and remat")
    parser.add_argument(
        "--batches", type=_sizes, default=(), help="with --search: batch sizes, as 2048,4096"
    )
    parser.add_argument("--compiles", type=int, default=6, help="with --search: at most so many")
    parser.add_argument("--workdir", help="plan/ is written there (default: runs/NAME)")
    parser.add_argument("--smoke", action="store_true", help="the config's tiny size")
    parser.epilog = "Any field of the config is overridden as --section.field=value."
    args, overrides = parser.parse_known_args(words)
    from scalingnote_jax.plan.topology import prepare_environment

    prepare_environment()  # before JAX is imported
    from scalingnote_jax.config.load import load_config
    from scalingnote_jax.plan.make_plan import Workload
    from scalingnote_jax.plan.run_plan import PlanRequest, run_plan

    config = load_config(args.config, overrides, smoke=args.smoke)
    workload = Workload(config.teacher, config.train, config.encode, config.mesh, config.seed)
    given = args.pairs, args.search, args.batches, args.compiles
    request = PlanRequest(args.topology, args.slices, *given)
    run_plan(workload, request, Path(args.workdir or Path("runs") / config.name))


if __name__ == "__main__":
    raise SystemExit(main())
