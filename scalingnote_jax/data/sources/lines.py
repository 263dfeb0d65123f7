"""Lines of text files, plain or gzipped, read one by one, also as JSON objects: every fault is
reported with its file and line. Not for what a line or an object means.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from scalingnote_jax.errors import bad_input

_MOST_BYTES = 2**27  # of a line: a small gzip file may hold gigabytes without an end of line
_BOM = b"\xef\xbb\xbf"


def checked_folder(path: str, holds: str) -> Path:
    """`path`, the value of --data.path, if it is a folder; `holds`: what is expected in it."""
    folder = Path(path)
    if not path or not folder.is_dir():
        raise bad_input(
            "--data.path",
            f"{path!r} is not a folder",
            f"a folder with {holds}",
            "name one, or use --data.source=pydocs, which needs no files",
        )
    return folder


def plain_or_gzipped(path: Path) -> Path | None:
    """`path`, or the same with `.gz`; the plain one where both are there."""
    return next((p for p in (path, path.with_name(path.name + ".gz")) if p.is_file()), None)


def needed_file(path: Path) -> Path:
    """As `plain_or_gzipped`, where one of the two has to be there."""
    found = plain_or_gzipped(path)
    if found is None:
        raise bad_input(
            str(path),
            "no such file",
            f"{path.name} or {path.name}.gz",
            "correct the path, or put the file there",
        )
    return found


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines of a UTF-8 file as (`file:line`, text); blank lines are passed over."""
    number = 0
    with _open(path) as lines:
        while True:
            number += 1
            where = f"{path}:{number}"
            try:
                raw = lines.readline(_MOST_BYTES)
            except (OSError, EOFError, zlib.error) as error:
                raise bad_input(
                    where,
                    f"the file cannot be read on from here ({error})",
                    "a whole gzip file" if path.suffix == ".gz" else "a readable file",
                    f"test it with `gzip -t {path.name}` and copy or download it again"
                    if path.suffix == ".gz"
                    else "copy it again",
                ) from None
            if not raw:
                return
            if len(raw) == _MOST_BYTES:
                given, fix = f"a line of {_MOST_BYTES:,} bytes or more", "split the record"
                raise bad_input(where, given, "shorter lines", fix)
            if number == 1:
                raw = raw.removeprefix(_BOM)
            if raw.strip():
                yield where, _decoded(where, raw).rstrip("\r\n")


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a JSONL file as (`file:line`, object)."""
    fix = "correct or remove the line (each line must be one whole JSON object)"
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


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _decoded(where: str, raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise bad_input(
            where,
            f"byte 0x{raw[error.start]:02x} at column {error.start + 1} is not UTF-8",
            "a UTF-8 file",
            "convert it, for example with `iconv -f latin1 -t utf-8`",
        ) from None


def _short(line: str) -> str:
    return repr(line if len(line) <= 60 else line[:57] + "...")
