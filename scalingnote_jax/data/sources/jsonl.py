"""JSON lines, plain or gzipped, read strictly. Not for what a record means."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scalingnote_jax.data.sources.lines import read_lines
from scalingnote_jax.errors import bad_input


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a JSONL file as (`file:line`, object)."""
    fix = "mend or remove the line (each line must be one whole JSON object)"
    for where, line in read_lines(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            given = f"not JSON ({error}): {_short(line)}"
            raise bad_input(where, given, "a JSON object", fix) from None
        if not isinstance(record, dict):
            given = f"JSON, but a {type(record).__name__}: {_short(line)}"
            raise bad_input(where, given, "a JSON object", fix)
        yield where, record


def _short(line: str) -> str:
    return repr(line if len(line) <= 60 else line[:57] + "...")
