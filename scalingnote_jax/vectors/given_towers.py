"""Towers as they come: what stands in a teacher's folder where nothing was trained.

The weights stay where they are. The folder says what they are, by content: a hash of their files,
of what the config makes of them and of the tokenisation contract. It is the identity that vectors,
students and indexes name, as they name the weights' hash of a training. Not for reading weights:
`models/weights`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalingnote_jax.config import TowerConfig, TowersConfig
from scalingnote_jax.config.stages import Side
from scalingnote_jax.config.towers import BY_VECTORS
from scalingnote_jax.config.values import field_values
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import bad_input
from scalingnote_jax.files.typed_json import Each, Rule, read_json
from scalingnote_jax.hashing import content_hash, file_hash
from scalingnote_jax.hub import files_of, locate
from scalingnote_jax.models.pair import Towers
from scalingnote_jax.models.tower import TowerDef, tower_def
from scalingnote_jax.models.weights.beside.completion import settings_of
from scalingnote_jax.progress import say
from scalingnote_jax.text.contract import contract, tower_tokenizer
from scalingnote_jax.workflow.artefact import MANIFEST, partial_folder, put_in_place, write_manifest
from scalingnote_jax.workflow.engine import Place

_KIND = "towers as they come"
_STAMP = Rule("bytes, time and SHA-256", lambda x: isinstance(x, list) and len(x) == 3)
_SIDE = {"identity": str, "contract": {}, "files": Each(_STAMP)}
_FORM = {"sides": Each(_SIDE)}  # of the manifest
# Of a tower's config what changes no vector, or is in the contract or the files
_LEFT_OUT = ("weights", "tokenizer", "shape", "remat", "dropout", "freeze", "text")


@dataclass(frozen=True)
class GivenTowers:
    """What a teacher's folder says of towers that nothing trained.

    Attributes:
        folder: where it is.
        sides: of each side "identity", "contract" and "files" ({name: [bytes, time, SHA-256]}).
    """

    folder: Path
    sides: dict[str, dict[str, Any]]

    def check(self, side: str, cfg: TowerConfig, wanted: dict[str, Any]) -> None:
        """Checks that the weights and the contract are those that the identity is of. A file is
        read only if its size or time is another one.

        Raises:
            UserError: they are not.
        """
        said = self.sides[side]
        again = "run the same `scalingnote run` again, which makes what depends on them anew"
        for name, path in _files(cfg).items():
            theirs = said["files"].get(name)
            if theirs is None or (
                _stamp(path) != tuple(theirs[:2]) and _hash_of(path) != theirs[2]
            ):
                raise bad_input(
                    str(path), "changed since the run", f"the file that {self.folder} names", again
                )
        for key, value in wanted.items():
            if said["contract"].get(key) != value:
                given = f"its {side} tower had {key} = {said['contract'].get(key)!r}"
                raise bad_input(str(self.folder), given, f"{value!r} as the config says", again)


def read_given(folder: Path) -> GivenTowers | None:
    """What a teacher's folder says; None: it holds a training, or nothing yet."""
    path, fix = folder / MANIFEST, "delete the folder and run again"
    if not path.is_file():
        return None
    return GivenTowers(folder, read_json(path, _FORM, f"what {_KIND} are", fix)["sides"])


def sources(teacher: TowersConfig) -> dict[str, Any]:
    """What towers as they come are made from: the content of the files that the config names."""
    return {side: _hashes(cfg) for side, cfg in _sides(teacher).items()}


def take(teacher: TowersConfig, seed: int, unknown: str, place: Place) -> None:
    """Opens the towers' weights and writes what they are into `place.folder`. Every process takes
    part, one writes.

    Args:
        unknown: what stands for a tower that is not here: the hash of its vectors.

    Raises:
        UserError: weights that cannot be read, or towers that do not go together.
    """
    sides: dict[str, dict[str, Any]] = {}
    for side, cfg in _sides(teacher).items():
        if cfg.weights == BY_VECTORS:
            sides[side] = {"identity": unknown, "contract": {}, "files": {}}
            continue
        tower = tower_def(cfg, f"teacher.{side}")
        tower.stored_params(seed)  # refuses what is incomplete; reads headers only
        sides[side] = _described(tower, seed)
    if all(said["contract"] for said in sides.values()):
        Towers(teacher)
    if not mesh_lib.first_process():
        return
    names = " and ".join(dict.fromkeys(cfg.weights for cfg in _sides(teacher).values()))
    say(f"train: no stage 1, the towers are as they come: {names}")
    partial = partial_folder(place.folder)
    write_manifest(partial, {"kind": _KIND, "sides": sides})
    put_in_place(partial, place.folder)


def content(folder: Path) -> str:
    """The identity of the two towers."""
    found = read_given(folder)
    assert found is not None, "the step has written it"
    return content_hash({side: said["identity"] for side, said in found.sides.items()})


def _described(tower: TowerDef, seed: int) -> dict[str, Any]:
    cfg, terms = tower.cfg, contract(tower, tower_tokenizer(tower.cfg))
    files = {name: [*_stamp(path), _hash_of(path)] for name, path in _files(cfg).items()}
    kept = {n: v for n, v in field_values(cfg).items() if n.partition(".")[0] not in _LEFT_OUT}
    hashes = {name: sha256 for name, (*_, sha256) in files.items()}
    identity: dict[str, Any] = {"files": hashes, "tower": kept, "contract": terms}
    if drawn := _drawn(tower):
        identity |= {"seed": seed, "drawn": drawn}
    return {"identity": content_hash(identity), "contract": terms, "files": files}


def _drawn(tower: TowerDef) -> str:
    """What of a tower is no content of files: its shape, if all of it is drawn."""
    cfg = tower.cfg
    if cfg.weights == "random":
        return repr(tower.shape)
    settings = None if cfg.body_only else settings_of(locate(cfg.weights))
    stored = settings is not None and settings.dim
    return "projection" if cfg.projection and not stored else ""


def _sides(teacher: TowersConfig) -> dict[Side, TowerConfig]:
    return {"query": teacher.query, "doc": teacher.doc}


def _files(cfg: TowerConfig) -> dict[str, Path]:
    return {} if cfg.weights in ("random", BY_VECTORS) else files_of(cfg.weights)


def _hashes(cfg: TowerConfig) -> dict[str, str]:
    """Of the weights; of a tokenizer that lies elsewhere too."""
    refs = [cfg.weights, cfg.tokenizer]
    named = [ref for ref in refs if ref not in ("", "random", "bytes", BY_VECTORS)]
    return {f"{ref}/{n}": _hash_of(p) for ref in named for n, p in files_of(ref).items()}


def _stamp(path: Path) -> tuple[int, int]:
    return path.stat().st_size, path.stat().st_mtime_ns


def _hash_of(path: Path) -> str:
    return _hash_at(path.resolve(), _stamp(path))


@functools.lru_cache(maxsize=256)
def _hash_at(path: Path, stamp: tuple[int, int]) -> str:
    """As `file_hash`, taken once of a file in one process."""
    return file_hash(path)
