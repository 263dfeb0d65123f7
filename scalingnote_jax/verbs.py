"""The verbs that are no step of the method, each from its words to the function that does it.

Nothing heavy is imported before the words are known to be right.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

CONFIG_WORD = "a Python file with get_config(), or a name such as quickstart (see configs/)"
OVERRIDES = "Any field of the config is overridden as --section.field=value."


def search(parser: ArgumentParser, words: list[str]) -> None:
    """Prints the documents that are nearest to each query."""
    parser.add_argument("workdir", help="a workdir that `scalingnote run` has finished")
    parser.add_argument("text", nargs="*", help="one query per argument; none: they are typed in")
    parser.add_argument("-k", type=int, default=10, help="documents per query")
    parser.add_argument("--mode", default="dense", choices=("dense", "hybrid", "lexical"))
    parser.add_argument("--student", help="a workdir of the same teacher, whose student answers")
    parser.add_argument("--collection", help="of a mixture with prompts: which the queries are for")
    args = parser.parse_args(words)
    from scalingnote_jax.errors import printable
    from scalingnote_jax.retrieval.searcher import Searcher

    searcher = Searcher.open(args.workdir, student=args.student)

    def answer(texts: list[str]) -> None:
        found = searcher.search(texts, args.k, args.collection, args.mode)
        for text, hits in zip(texts, found, strict=True):
            print(printable(text))
            for rank, hit in enumerate(hits, 1):
                cut = f"{hit.line[:90]}{'…' if len(hit.line) > 90 else ''}"
                print(f"{rank:>4}. {hit.score:.3f}  {printable(hit.id)}  {cut}")
        sys.stdout.flush()

    if args.text:
        answer(args.text)
    else:
        _typed_in(answer)


def _typed_in(answer: Callable[[list[str]], None]) -> None:
    """A query a line, from a terminal with a prompt, until the end or an empty line; from a pipe
    empty lines are passed over. What is wrong with one query does not end the others.
    """
    from scalingnote_jax.errors import UserError

    is_terminal = sys.stdin.isatty()
    sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # refused as a text
    while True:
        if is_terminal:
            print("query> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line or (is_terminal and not line.strip()):
            break
        if line.strip():
            try:
                answer([line.strip()])
            except UserError as e:
                print(f"scalingnote: {e}", file=sys.stderr)


def serve(parser: ArgumentParser, words: list[str]) -> None:
    """Answers over HTTP."""
    try:
        from scalingnote_jax.serve import server
    except ImportError as e:
        from scalingnote_jax.errors import bad_input

        given, fix = f"{e.name} is not installed", "pip install 'scalingnote_jax[serve]'"
        raise bad_input("serve", given, "the packages of the extra `serve`", fix) from e
    server.main(parser, words)


def compare(parser: ArgumentParser, words: list[str]) -> None:
    """Finished workdirs beside each other."""
    from scalingnote_jax.evaluate.report import compare_table

    compare_table.main(parser, words)


def sweep(parser: ArgumentParser, words: list[str]) -> None:
    """One config with some fields over lists of values."""
    from scalingnote_jax.sweep import run_sweep

    run_sweep.main(parser, words)


def config(parser: ArgumentParser, words: list[str]) -> None:
    """Prints the fields of a config."""
    from scalingnote_jax.config import describe

    describe.main(parser, words)


def doctor(parser: ArgumentParser, words: list[str]) -> None:
    """Prints what works on this machine, or what of a workdir is whole."""
    parser.add_argument("workdir", nargs="?", help="reads and compares every file of it instead")
    args = parser.parse_args(words)
    from scalingnote_jax import doctor

    if args.workdir is None:
        doctor.doctor()
    else:
        doctor.check_workdir(Path(args.workdir))


def export(parser: ArgumentParser, words: list[str]) -> None:
    """A trained tower as a folder that other software loads."""
    parser.add_argument("workdir", help="a workdir in which the tower is trained")
    parser.add_argument("out", help="the folder to write")
    towers = ("sentence-transformers", "hf", "stablehlo", "onnx")
    vectors = ("parquet", "faiss", "vertex")
    parser.add_argument(
        "--format",
        required=True,
        choices=(*towers, *vectors),
        help="parquet, faiss, vertex: not a tower, but the document vectors with their ids",
    )
    parser.add_argument("--tower", default="student", choices=("student", "teacher"))
    parser.add_argument(
        "--side",
        choices=("query", "doc", "both"),
        help="default: the student's query, the teacher's doc; both: queries by the tower, "
        "documents by the teacher",
    )
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--collection", help="of a mixture with prompts: which it is for")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    args = parser.parse_args(words)
    if args.format in vectors:
        from scalingnote_jax.export.export_vectors import export_vectors

        return export_vectors(Path(args.workdir), args.format, Path(args.out), args.overwrite)
    from scalingnote_jax.export.export_towers import ExportRequest, export_towers
    from scalingnote_jax.run import finished_metrics
    from scalingnote_jax.vectors.pairing import served_config
    from scalingnote_jax.workflow.workdir import Workdir

    side = args.side or ("query" if args.tower == "student" else "doc")
    request = ExportRequest(args.format, args.tower, side, args.dtype, args.collection)
    workdir = Workdir(args.workdir)
    metrics = finished_metrics(served_config(workdir), workdir)
    export_towers(workdir.root, request, Path(args.out), args.overwrite, metrics)


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise ArgumentTypeError(f"{text!r}: expected sizes such as 2048,4096") from None


def _amount(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ArgumentTypeError(f"{text!r}: expected a number such as 8841823, 100e6 or 1.2")
    return number


def plan(parser: ArgumentParser, words: list[str]) -> None:
    """What a training step needs on a TPU slice that is not there."""
    parser.add_argument("config", help=CONFIG_WORD)
    parser.add_argument("--topology", required=True, help="one slice, such as v5e:16x16")
    parser.add_argument("--slices", type=int, default=1, help="slices joined by the DCN")
    for name, what in (
        ("pairs", "training pairs in an epoch"),
        ("queries", "query texts, for mining, stage 2 and 3, and search"),
        ("docs", "documents, for encoding and search"),
    ):
        parser.add_argument(f"--{name}", type=_amount, default=0.0, help=f"{what}, as 100e6")
    parser.add_argument("--price", type=_amount, default=0.0, help="of a chip-hour")
    parser.add_argument("--search", action="store_true", help="find the best mesh and remat")
    parser.add_argument(
        "--batches", type=_sizes, default=(), help="with --search: batch sizes, as 2048,4096"
    )
    parser.add_argument("--compiles", type=int, default=6, help="with --search: at most so many")
    parser.add_argument("--workdir", help="plan/ is written there (default: runs/NAME)")
    parser.add_argument("--smoke", action="store_true", help="the config's tiny size")
    parser.epilog = OVERRIDES
    args, overrides = parser.parse_known_args(words)
    from scalingnote_jax.plan.topology import prepare_environment

    prepare_environment()  # before JAX is imported
    from scalingnote_jax.config.load import load_config
    from scalingnote_jax.plan.make_plan import Workload
    from scalingnote_jax.plan.project_cost import Amounts, Project
    from scalingnote_jax.plan.run_plan import PlanRequest, run_plan
    from scalingnote_jax.startup import completed

    config = completed(load_config(args.config, overrides, smoke=args.smoke), planned=True)
    workload = Workload(config.teacher, config.train, config.encode, config.mesh, config.seed)
    amounts = Amounts(int(args.pairs), int(args.queries), int(args.docs), args.price)
    given = amounts, args.search, args.batches, args.compiles
    request = PlanRequest(args.topology, args.slices, *given)
    project = Project(
        teacher=config.teacher,
        train=config.train,
        mine=config.mine,
        distill=config.distill,
        refine=config.refine,
        encode=config.encode,
        exact=config.eval.exact,
        stages=config.stages,
    )
    run_plan(workload, project, request, Path(args.workdir or Path("runs") / config.name))
