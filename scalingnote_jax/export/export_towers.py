"""`scalingnote export`: which towers, in which format, into a folder that appears whole or not at
all.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import scalingnote_jax
from scalingnote_jax.config import Config
from scalingnote_jax.errors import UserError, bad_input
from scalingnote_jax.export.card import write_card
from scalingnote_jax.export.exported_tower import Source, host_mesh, open_tower
from scalingnote_jax.export.sentences import write_one, write_pair
from scalingnote_jax.export.stablehlo import write_stablehlo
from scalingnote_jax.export.write_hf import write_hf, write_json
from scalingnote_jax.pipeline import STEPS, Run
from scalingnote_jax.progress import say
from scalingnote_jax.systems import shipped_tower
from scalingnote_jax.text.contract import contract
from scalingnote_jax.vectors.pairing import served_config
from scalingnote_jax.workflow.artefact import partial_folder, put_in_place
from scalingnote_jax.workflow.workdir import Workdir, is_done

CONTRACT = "contract.json"


@dataclass(frozen=True)
class Wish:
    """What the command line asks for.

    Attributes:
        kind: the format.
        tower: "student" (without stage 2, what is shipped in its place) or "teacher".
        side: "query", "doc" or "both" (queries by the tower, documents by the teacher's).
        dtype: of the weights.
    """

    kind: str
    tower: str
    side: str
    dtype: str


def run(root: Path, wish: Wish, out: Path, overwrite: bool) -> None:
    """Exports towers of the workdir `root` into the folder `out`.

    Raises:
        UserError: the wish cannot be met; `out` is there already; no such tower yet.
    """
    _check(wish, out, overwrite)
    workdir = Workdir(root)
    config = served_config(workdir)
    if wish.tower == "student":
        wish = replace(wish, tower=shipped_tower(config))
    sides = {"both": [(wish.tower, "query"), ("teacher", "doc")]}
    pairs = sides.get(wish.side, [(wish.tower, wish.side)])
    sources = [open_tower(config, workdir, *pair) for pair in pairs]
    metrics = _metrics(config, workdir)
    try:
        partial = partial_folder(out)
        try:
            more = _write(wish, sources, partial)
            write_json(partial / CONTRACT, _contract(wish, sources) | more)
            write_card(partial, wish.kind, sources, config, metrics)
            put_in_place(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as e:
        expected = "a folder that can be written, on a disk with room"
        raise bad_input(str(out), str(e), expected, "choose another") from e
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    say(f"export: {' and '.join(s.name for s in sources)} → {out} ({size / 2**20:.1f} MiB)")


def _check(wish: Wish, out: Path, overwrite: bool) -> None:
    if wish.side == "both" and wish.kind != "sentence-transformers":
        raise bad_input(
            "--side", "both", "one tower in a folder of this format", "export them one by one"
        )
    if wish.dtype != "float32" and wish.kind in ("stablehlo", "onnx"):
        raise bad_input("--dtype", wish.dtype, f"float32 for {wish.kind}", "leave it out")
    if wish.tower == "student" and wish.side == "doc":
        raise bad_input(
            "--side",
            "doc, and the student has no document tower",
            "query, or both for the student and the teacher's document tower",
            "change it, or add --tower=teacher",
        )
    if not out.exists():
        return
    if not overwrite:
        raise bad_input(str(out), "is there already", "a new folder", "add --overwrite")
    if not (out / CONTRACT).is_file():
        raise bad_input(
            str(out),
            f"has no {CONTRACT}: it is not an export",
            "an earlier export, which may be replaced",
            "name another folder",
        )


def _write(wish: Wish, sources: list[Source], folder: Path) -> dict[str, Any]:
    """Returns what the format has to say beside the contract."""
    source = sources[0]
    if wish.kind == "stablehlo":
        return write_stablehlo(source, folder)
    if wish.kind == "onnx":
        _write_onnx(source, folder)
    elif wish.kind == "hf":
        write_hf(source, folder, wish.dtype)
    elif wish.side == "both":
        write_pair(source, sources[1], folder, wish.dtype)
    else:
        write_one(source, folder, wish.dtype)
    return {}


def _write_onnx(source: Source, folder: Path) -> None:
    try:
        from scalingnote_jax.export.onnx_model import write_onnx
    except ImportError as e:
        raise bad_input(
            "--format onnx",
            f"{e.name} is not installed",
            "PyTorch and its exporter to ONNX",
            "pip install 'scalingnote_jax[onnx]'",
        ) from e
    write_onnx(source, folder)


def _contract(wish: Wish, sources: list[Source]) -> dict[str, Any]:
    towers = {
        s.name: contract(s.tower, s.tokenizer) | {"pad_id": s.tokenizer.pad_id} for s in sources
    }
    return {"format": wish.kind, "scalingnote_jax": scalingnote_jax.__version__, "towers": towers}


def _metrics(config: Config, workdir: Workdir) -> dict[str, Any] | None:
    """eval/metrics.json if it is of just these towers."""
    step = STEPS["eval"]
    try:
        if not is_done(step.folder(workdir), step.inputs(Run(config, workdir, host_mesh()))):
            return None
    except UserError:  # a step before it was not run
        return None
    return dict(json.loads((workdir.eval / "metrics.json").read_text()))
