"""The files of one part of a ScaNN index, checked before ScaNN opens any: its loader unpickles a
`scann_docids.pkl`, opens whatever path its asset list names, and ends the process where arrays
contradict each other.

Only the names that an index of ours has are allowed, as plain files of the folder. Not for loading.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from scalingnote_jax.files.npy_files import npy_header
from scalingnote_jax.files.typed_json import NAME, POSITIVE
from scalingnote_jax.workflow.artefact import ENTRY, check_files, damaged

CONFIG, ASSETS = "scann_config.pb", "scann_assets.pbtxt"
_ARRAYS = {  # allowed .npy → its type, and its shape of (rows, dim); 0: any length
    "dataset.npy": ("float32", "rows dim"),
    "hashed_dataset.npy": ("uint8", "rows any"),
    "hashed_dataset_soar.npy": ("uint8", "rows any"),
    "datapoint_to_token.npy": ("int32", "any"),
    "int8_dataset.npy": ("int8", "rows dim"),
    "int8_multipliers.npy": ("float32", "dim"),
    "dp_norms.npy": ("float32", "rows"),
    "bfloat16_dataset.npy": ("int16", "rows dim"),
}
_OTHERS = (CONFIG, ASSETS, "ah_codebook.pb", "serialized_partitioner.pb")
_ASSET = re.compile(r"\s*(assets|asset_type|asset_path|trained_on_the_fly)\b\s*:?\s*(.*?)\s*")

PART = {"folder": NAME, "rows": POSITIVE, "files": [ENTRY]}
SETTINGS = {
    "kind": str,
    "leaves?": POSITIVE,
    "leaves_searched?": POSITIVE,
    "reorder?": POSITIVE,
}


def check_part(dir: Path, part: dict[str, Any], dim: int, fix: str) -> None:
    """Checks the files of a part.

    Args:
        dir: the folder of the index.
        part: of its manifest, of the form `PART`.
        dim: D of the vectors.

    Raises:
        UserError: a file is missing, cut, changed, foreign, a link, or says other things than the
            manifest.
    """
    folder = dir / part["folder"]
    if folder.is_symlink():
        raise damaged(folder, "a link, which no index has", fix)
    names = {entry["file"] for entry in part["files"]}
    for name in sorted(names - _ARRAYS.keys() - set(_OTHERS)):
        raise damaged(folder / name, "a file that no index of ours has", fix)
    check_files(folder, part["files"], fix)
    for path in sorted(folder.iterdir()):
        if path.name not in names:
            raise damaged(path, "a file that the index did not write", fix)
    if missing := {CONFIG, ASSETS} - names:
        raise damaged(folder / min(missing), "not there", fix)
    _check_assets(folder / ASSETS, names, fix)
    for name in sorted(names & _ARRAYS.keys()):
        _check_array(folder / name, part["rows"], dim, fix)


def _check_assets(path: Path, names: set[str], fix: str) -> None:
    """The list may name files of the folder alone, all of which are there."""
    try:
        text = path.read_text(encoding="ascii")
    except ValueError as e:
        raise damaged(path, "not text", fix) from e
    for line in text.splitlines():
        if not line.strip() or line.strip() == "}":
            continue
        match = _ASSET.fullmatch(line)
        if match is None:
            raise damaged(path, f"the line {line.strip()[:60]!r}", fix)
        if match[1] == "asset_path" and match[2][1:-1] not in names:
            raise damaged(path, f"it names {match[2][:60]}, which is no file of the index", fix)


def _check_array(path: Path, rows: int, dim: int, fix: str) -> None:
    dtype, shape = npy_header(path, fix)
    wanted_type, axes = _ARRAYS[path.name]
    sizes: dict[str, int | None] = {"rows": rows, "dim": dim, "any": None}
    wanted = [sizes[axis] for axis in axes.split()]
    fits = len(shape) == len(wanted) and all(
        w in (None, n) for w, n in zip(wanted, shape, strict=True)
    )
    if str(dtype) != wanted_type or not fits:
        given = f"an array {list(shape)} of {dtype}"
        raise damaged(path, f"{given}, which is not of {rows} vectors of {dim}", fix)
