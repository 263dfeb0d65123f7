"""Ids in the files of a tokenizer, looked at before a library reads them: it makes a table as long
as the largest id, so one of 2³¹ takes minutes and gigabytes. Not for what the files mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scalingnote_jax.errors import bad_input
from scalingnote_jax.files.typed_json import Misfit, parse

MAX_IDS = 2**23  # the largest vocabularies have a quarter million
_FILES = ("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "vocab.json")


def check_ids(place: Path) -> None:
    """Refuses ids that no tokenizer has.

    Args:
        place: a tokenizer.json, or a folder with such files.

    Raises:
        UserError: names the file and the id.
    """
    for path in [place] if place.is_file() else [place / name for name in _FILES]:
        if not path.is_file():
            continue
        try:
            values = parse(path.read_bytes())
        except (Misfit, OSError) as e:
            raise bad_input(str(path), f"cannot be read ({e})", "JSON", "fetch it again") from e
        for found in _ids(values, path.name):
            if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < MAX_IDS:
                expected = f"an id of 0 to {MAX_IDS - 1}"
                raise bad_input(str(path), f"{found!r:.40} as id", expected, "fetch it again")


def _ids(values: Any, name: str) -> Iterator[Any]:
    """All that the file says is the id of a token."""
    if not isinstance(values, dict):
        return
    if name in ("added_tokens.json", "vocab.json"):
        yield from values.values()
        return
    for key in values.get("added_tokens_decoder") or {}:
        yield int(key) if str(key).isdecimal() and len(str(key)) < 20 else key
    for token in _list(values.get("added_tokens")):
        if isinstance(token, dict):
            yield token.get("id")
    model = values.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        yield from vocabulary.values()
    padding = values.get("padding")
    if isinstance(padding, dict):
        yield padding.get("pad_id", 0)
    yield from _special_ids(values.get("post_processor"))


def _special_ids(processor: Any) -> Iterator[Any]:
    if not isinstance(processor, dict):
        return
    for inner in _list(processor.get("processors")):
        yield from _special_ids(inner)
    tokens = processor.get("special_tokens")
    for token in tokens.values() if isinstance(tokens, dict) else ():
        yield from _list(token.get("ids") if isinstance(token, dict) else None)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
