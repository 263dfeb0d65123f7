"""`scalingnote export`: which towers, in which format, into a folder that appears whole or not at
all.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scalingnote_jax
from scalingnote_jax.config.forms.mixture_entry import prompt_of
from scalingnote_jax.config.values import field_values
from scalingnote_jax.errors import bad_input
from scalingnote_jax.export.card import Origin, write_card
from scalingnote_jax.export.exported_tower import ExportedTower, open_tower
from scalingnote_jax.export.sentences import write_one, write_pair
from scalingnote_jax.export.stablehlo import write_stablehlo
from scalingnote_jax.export.write_hf import write_hf, write_json
from scalingnote_jax.models.weights.beside.own_export import CONTRACT
from scalingnote_jax.progress import say
from scalingnote_jax.text.contract import contract
from scalingnote_jax.vectors.pairing import run_towers, served_config
from scalingnote_jax.workflow.artefact import partial_folder, put_in_place
from scalingnote_jax.workflow.workdir import Workdir

_PROMPTS = {"query": "query_prompts", "doc": "doc_prompts"}


@dataclass(frozen=True)
class ExportRequest:
    """What the command line asks for.

    Attributes:
        kind: the format.
        tower: "student" (without stage 2, what is shipped in its place) or "teacher".
        side: "query", "doc" or "both" (queries by the tower, documents by the teacher's).
        dtype: of the weights.
        collection: of a mixture whose collections have prompts of their own: which the towers are
            for.
    """

    kind: str
    tower: str
    side: str
    dtype: str
    collection: str | None = None


def export_towers(
    root: Path,
    request: ExportRequest,
    out: Path,
    overwrite: bool,
    metrics: dict[str, Any] | None = None,
) -> None:
    """Exports towers of the workdir `root` into the folder `out`.

    Args:
        overwrite: whether an earlier export may be replaced.
        metrics: what eval/metrics.json says of just these towers; None: they were not evaluated.

    Raises:
        UserError: the format cannot hold what is asked for; `out` is there already; the tower is
            not trained yet; no collection is named, and their prompts differ.
    """
    _check(request, out, overwrite)
    workdir = Workdir(root)
    config = served_config(workdir)
    stages = config.stages
    role = stages.shipped if request.tower == "student" else request.tower
    sides = {"both": [(role, "query"), ("teacher", "doc")]}
    pairs = sides.get(request.side, [(role, request.side)])
    fields = [_PROMPTS[side] for _, side in pairs]
    prompts = [prompt_of(config.data, field, request.collection) for field in fields]
    trained = run_towers(config.teacher, config.distill.student, config.seed, stages, workdir)
    towers = [
        open_tower(trained.get(*pair), config.encode, prompt)
        for pair, prompt in zip(pairs, prompts, strict=True)
    ]
    matryoshka = config.distill.matryoshka if stages.distills else ()
    origin = Origin(config.name, field_values(config), matryoshka or config.train.matryoshka)
    try:
        partial = partial_folder(out)
        try:
            more = _write(request, towers, partial)
            write_json(partial / CONTRACT, _contract(request, towers) | more)
            write_card(partial, request.kind, towers, origin, metrics)
            _readable(partial)
            put_in_place(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as e:
        expected = "a folder that can be written, on a disk with room"
        raise bad_input(str(out), str(e), expected, "choose another") from e
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    say(f"export: {' and '.join(tower.name for tower in towers)} → {out} ({size / 2**20:.1f} MiB)")


def _check(request: ExportRequest, out: Path, overwrite: bool) -> None:
    if request.side == "both" and request.kind != "sentence-transformers":
        raise bad_input(
            "--side", "both", "one tower in a folder of this format", "export them one by one"
        )
    if request.dtype != "float32" and request.kind in ("stablehlo", "onnx"):
        raise bad_input("--dtype", request.dtype, f"float32 for {request.kind}", "leave it out")
    if request.tower == "student" and request.side == "doc":
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


def _write(request: ExportRequest, towers: list[ExportedTower], folder: Path) -> dict[str, Any]:
    """Returns what the format has to say beside the contract."""
    tower = towers[0]
    if request.kind == "stablehlo":
        return write_stablehlo(tower, folder)
    if request.kind == "onnx":
        _write_onnx(tower, folder)
    elif request.kind == "hf":
        write_hf(tower, folder, request.dtype)
    elif request.side == "both":
        write_pair(tower, towers[1], folder, request.dtype)
    else:
        write_one(tower, folder, request.dtype)
    return {}


def _readable(folder: Path) -> None:
    """Gives files the permissions that this process gives to new ones: safetensors makes its own
    for nobody else to read.
    """
    probe = folder / ".mode"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def _write_onnx(tower: ExportedTower, folder: Path) -> None:
    try:
        from scalingnote_jax.export.onnx_model import write_onnx
    except ImportError as e:
        raise bad_input(
            "--format onnx",
            f"{e.name} is not installed",
            "PyTorch and its exporter to ONNX",
            "pip install 'scalingnote_jax[onnx]'",
        ) from e
    write_onnx(tower, folder)


def _contract(request: ExportRequest, towers: list[ExportedTower]) -> dict[str, Any]:
    terms = {
        tower.name: contract(tower.definition, tower.tokenizer) | {"pad_id": tower.tokenizer.pad_id}
        for tower in towers
    }
    version = scalingnote_jax.__version__
    return {"format": request.kind, "scalingnote_jax": version, "towers": terms}
