"""JSON files of a weights folder, read or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scalingnote_jax.errors import bad_input
from scalingnote_jax.files.typed_json import read_json as read_typed


def read_json(path: Path, form: Any = None) -> Any:
    """The content of a file.

    Args:
        form: as for `typed_json`; None: an object with anything in it.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        expected = f"{path.name} beside the weights"
        raise bad_input(str(path), "no such file", expected, "name a complete folder")
    expected = "a JSON list" if isinstance(form, list) else "a JSON object"
    return read_typed(path, {} if form is None else form, expected, "fetch it again")
