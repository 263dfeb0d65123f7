"""The header of a .gguf file: metadata by key. Its tensors are read by `models/weights`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import gguf

from scalingnote_jax.errors import bad_input


class GgufFields:
    """The header of a GGUF file: metadata by key, and where the tensors are."""

    def __init__(self, path: Path):
        self.path = path
        reader = gguf.GGUFReader(path)
        self._fields = reader.fields
        self.tensors: list[Any] = reader.tensors

    def get(self, key: str, default: Any = None) -> Any:
        """A value, or `default` where the file has none."""
        return self._fields[key].contents() if key in self._fields else default

    def __getitem__(self, key: str) -> Any:
        if key not in self._fields:
            raise bad_input(str(self.path), f"no field {key}", "one", "use another file")
        return self.get(key)


def read_gguf(path: Path) -> GgufFields:
    """The header of a file; kept, because it takes a second or two to parse a large vocabulary."""
    stat = path.stat()
    return _read_gguf(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read_gguf(path: Path, size: int, mtime_ns: int) -> GgufFields:
    try:
        return GgufFields(path)
    except Exception as e:  # the reader raises whatever its parsing meets in a damaged file
        raise bad_input(
            str(path), f"cannot be read ({e})", "a complete GGUF file", "fetch it again"
        ) from e
