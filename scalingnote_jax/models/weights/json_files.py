"""JSON files of a weights folder, read or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scalingnote_jax.errors import bad_input


def read_json(path: Path, kind: type = dict) -> Any:
    """The content of a file.

    Args:
        kind: what it must be: dict or list.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    expected = "a JSON object" if kind is dict else "a JSON list"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise bad_input(
            str(path), "no such file", f"{path.name} beside the weights", "name a complete folder"
        ) from e
    except ValueError as e:
        raise bad_input(str(path), f"not JSON ({e})", expected, "fetch it again") from e
    if not isinstance(values, kind):
        given = "not an object" if kind is dict else "not a list"
        raise bad_input(str(path), given, expected, "fetch it again")
    return values
