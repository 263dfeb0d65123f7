"""A folder of `scalingnote export --format hf`: the projection and the contract beside the body,
which is as `transformers` has it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scalingnote_jax.config.stages import Side
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.weights.beside.folder_settings import BODY_ALONE, FolderSettings, linear
from scalingnote_jax.models.weights.hf_folder import PROJECTION
from scalingnote_jax.models.weights.json_files import read_json

CONTRACT = "contract.json"


def export_settings(folder: Path) -> FolderSettings | None:
    """What such a folder says; None: it is another one.

    Raises:
        UserError: what it says is incomplete, or does not fit together.
    """
    path = folder / CONTRACT
    terms = _only_tower(path, read_json(path)) if path.is_file() else {}
    projected = (folder / PROJECTION).is_file()
    if not terms and not projected:
        return None
    layers = (linear(folder / PROJECTION, "projection", transposed=False),) if projected else ()
    width = read_json(folder / "config.json").get("hidden_size")
    given = layers[0].size if layers else (width, width)
    if given != (width, terms.get("dim", given[1])):
        raise bad_input(
            str(folder),
            f"dim {terms.get('dim')} in {CONTRACT}, and {given[0]} → {given[1]} in "
            + (PROJECTION if layers else "the body"),
            f"a projection from {width}, the body's hidden_size, to the same dim",
            BODY_ALONE,
        )
    parts = [f"{PROJECTION} ({given[0]} → {given[1]})"] if layers else []
    if not terms:
        return FolderSettings(parts[0], linear=layers)
    parts.insert(0, f"{CONTRACT} (pooling {terms['pooling']}, prompt {terms['prompt']!r})")
    side: Side = terms["side"]
    return FolderSettings(
        ", ".join(parts),
        terms["pooling"],
        layers,
        {side: terms["prompt"]},
        {side: terms["max_tokens"]},
        terms["title_tokens"],
    )


def _only_tower(path: Path, contract: dict[str, Any]) -> dict[str, Any]:
    """The terms of the folder's one tower, with its side."""
    towers: dict[str, dict[str, Any]] = contract.get("towers") or {}
    needed = {"pooling", "prompt", "max_tokens", "title_tokens", "dim"}
    if len(towers) != 1 or not needed <= next(iter(towers.values())).keys():
        given = f"{len(towers)} towers, or one without {', '.join(sorted(needed))}"
        raise bad_input(str(path), given, "one tower with all of these", "export it again")
    ((name, terms),) = towers.items()
    return {**terms, "side": "doc" if name.split()[-1] == "doc" else "query"}
