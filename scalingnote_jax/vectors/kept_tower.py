"""A trained tower kept ready: its weights as memory-mapped arrays, its shape, its tokenizer. No
pretrained file and no checkpoint is read then, which takes seconds. For `search` and `serve`.

It lies beside the checkpoints, is made when it is first asked for, and made again when the tower is
another one. Towers with adapters, in int8 or over several devices are loaded from the checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from scalingnote_jax.config import EncodeConfig, TowerConfig
from scalingnote_jax.config.values import section_from_json, to_json
from scalingnote_jax.errors import UserError
from scalingnote_jax.files.guard import reading
from scalingnote_jax.files.npy_files import read_npy
from scalingnote_jax.files.typed_json import COUNT, NAME, Each, read_json
from scalingnote_jax.hashing import content_hash
from scalingnote_jax.models.layers.params import flatten, nest
from scalingnote_jax.models.tower import TowerDef
from scalingnote_jax.text.tokenizer import TextTokenizer
from scalingnote_jax.vectors.encoder import Encoder, load_encoder
from scalingnote_jax.vectors.trained import TrainedTower
from scalingnote_jax.version import __version__
from scalingnote_jax.workflow.artefact import partial_folder, put_in_place
from scalingnote_jax.workflow.workdir import damage, is_done, mark_done

FACTS = "tower.json"
_FORM = {"tower": {}, "weights": Each(NAME), "pad_id": COUNT}


def kept_encoder(tower: TrainedTower, cfg: EncodeConfig, mesh: Mesh, folder: Path) -> Encoder:
    """As `load_encoder`, from `folder` if the tower is kept there; else it is kept there now, where
    it can be.

    Raises:
        UserError: as `load_encoder`, of a damaged checkpoint too, though it would not be read.
    """
    assert tower.folder is not None, "only a trained tower is kept"
    inputs = content_hash([__version__, tower.identity, tower.role, to_json(tower.cfg)])
    try:
        if is_done(folder, inputs) and not damage(tower.folder):
            return _open(tower, cfg, mesh, folder)
    except UserError:  # a damaged marker: made again
        pass
    encoder = load_encoder(tower, cfg, mesh)
    if tower.role != "student_int8" and not tower.cfg.lora.rank and mesh.size == 1:
        with contextlib.suppress(OSError):  # a workdir that is only to be read
            _keep(encoder, folder, inputs)
    return encoder


def _open(tower: TrainedTower, cfg: EncodeConfig, mesh: Mesh, folder: Path) -> Encoder:
    facts = read_json(folder / FACTS, _FORM, "a tower that is kept", "delete the folder")
    with reading(folder, "a tower that is kept", "delete the folder"):
        shape = section_from_json(TowerConfig, facts["tower"]).shape
        tokenizer = TextTokenizer.open(folder, facts["pad_id"])
    assert shape is not None, "it is written with its shape"
    device = mesh.devices.flat[0]
    weights: dict[str, Any] = {
        path: jax.device_put(read_npy(folder / name, "delete the folder", mapped=True), device)
        for path, name in facts["weights"].items()
    }
    definition = TowerDef(tower.cfg, shape)
    return Encoder(definition, nest(weights), tokenizer, mesh, cfg.batch_size, cfg.dim)


def _keep(encoder: Encoder, folder: Path, inputs: str) -> None:
    partial = partial_folder(folder.with_name(f"{folder.name}.{os.getpid()}"))  # of several, one
    try:
        names = {}
        for number, (path, weight) in enumerate(flatten(encoder.params).items()):
            names[path] = f"{number:03d}.npy"
            np.save(partial / names[path], np.asarray(weight))
        with_shape = replace(encoder.tower.cfg, shape=encoder.tower.shape)
        facts = {
            "tower": to_json(with_shape),
            "weights": names,
            "pad_id": encoder.tokenizer.pad_id,
        }
        encoder.tokenizer.save(partial)
        (partial / FACTS).write_text(json.dumps(facts, indent=1) + "\n")
        mark_done(partial, inputs, inputs)
        put_in_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
