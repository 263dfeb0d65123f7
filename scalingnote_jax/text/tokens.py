"""Texts as tables of token ids: tokenised once, kept on disk, read by row.

Not for which rows make a batch (`pipeline.py`), what stands around a text (`prompts.py`) or what a
tokenizer does (`text/tokenizer.py`).
"""

from __future__ import annotations

import itertools
import operator
import os
import shutil
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from scalingnote_jax.config import TextConfig
from scalingnote_jax.config.forms.prompt import MARKER, last_words
from scalingnote_jax.errors import UserError, bad_input
from scalingnote_jax.files.npy_files import read_npy
from scalingnote_jax.files.typed_json import COUNT
from scalingnote_jax.hashing import content_hash
from scalingnote_jax.progress import progress, say
from scalingnote_jax.text.prompts import encode_pairs
from scalingnote_jax.text.tokenizer import TextTokenizer
from scalingnote_jax.workflow.artefact import (
    ENTRY,
    check_files,
    damaged,
    file_entry,
    read_manifest,
    remove_folder,
    write_manifest,
)

_REDO = "run the step again: the table is then made anew"
_FORM = {"rows": COUNT, "tokens": COUNT, "files": [ENTRY]}  # of the manifest
_CHUNK = 1024  # texts given to the tokenizer at a time


class TokenTable:
    """Token ids of many texts, row after row.

    Attributes:
        ids: int32, flat; memory-mapped when it comes from disk.
        offsets: int64 [n + 1]; row i is `ids[offsets[i]:offsets[i + 1]]`.
        lengths: int32 [n], each at least 1; in a table of beginnings, of those, 0 for none.
        beginnings: where each text's title ends was asked for, the table of the texts up to there:
            the same rows and ids, other lengths.
    """

    def __init__(self, ids: np.ndarray, offsets: np.ndarray, title_ends: np.ndarray | None = None):
        """`title_ends`: int32 [n], the place of each title's last token in its row; -1: none."""
        self.ids, self.offsets = ids, offsets
        self.lengths: np.ndarray = np.diff(offsets).astype(np.int32)
        self.beginnings: TokenTable | None = None
        if title_ends is not None:
            self.beginnings = TokenTable(ids, offsets)
            self.beginnings.lengths = title_ends + 1

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int]]) -> TokenTable:
        """A table in memory."""
        flat = np.fromiter(itertools.chain.from_iterable(rows), np.int32)
        return cls(flat, np.cumsum([0, *map(len, rows)], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.lengths)

    def row(self, i: int) -> np.ndarray:
        """int32, the tokens of text `i`."""
        return self.ids[self.offsets[i] : self.offsets[i + 1]]

    def take(self, rows: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows side by side, padded on the right.

        Args:
            rows: [...] row numbers, of any shape.
            length: L, at least as long as the longest of them.

        Returns:
            tokens int32 [..., L] and mask bool [..., L], true where a token is real. Padding is 0,
            which may be a real token: only the mask tells.
        """
        lengths = self.lengths[rows][..., None]
        assert lengths.max(initial=0) <= length, (lengths.max(), length)
        places = np.arange(length)
        mask = places < lengths
        tokens = self.ids[np.where(mask, self.offsets[rows][..., None] + places, 0)]
        return np.where(mask, tokens, 0), mask


def bucket_of(length: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds `length` tokens."""
    return min(bucket for bucket in buckets if bucket >= length)


def tokenize(
    texts: Iterable[tuple[str, str]],
    cfg: TextConfig,
    tokenizer: TextTokenizer,
    cache_dir: Path,
    key: str,
    *,
    to_marker: bool = False,
    title_ends: bool = False,
) -> TokenTable:
    """The token table of (title, text) pairs, from `cache_dir` if it is there.

    Args:
        texts: read only if the table is not there yet, in one pass.
        cfg: prompt and lengths; the buckets do not matter here.
        key: content hash of the texts. With the tokenizer's and `cfg`'s it names the table.
        to_marker, title_ends: as for `prompts.encode_pairs`.

    Raises:
        UserError: the prompt does not show the text, lacks a marker, or leaves no room for a text.
    """
    if "{text}" not in cfg.prompt:
        fix = "add {text} where the text goes"
        raise bad_input("text.prompt", repr(cfg.prompt), "a prompt with {text} in it", fix)
    if to_marker and MARKER not in last_words(cfg.prompt):
        expected = f"{MARKER} behind title and text, for pooling='marker'"
        raise bad_input("text.prompt", repr(cfg.prompt), expected, "add it at the end")
    options = {"to_marker": to_marker, "title_ends": title_ends}
    made_from = [key, tokenizer.fingerprint, cfg.prompt, cfg.max_tokens, cfg.title_tokens, options]
    folder = Path(cache_dir) / content_hash(made_from)[:24]
    if folder.is_dir():
        try:
            return _open(folder, title_ends)
        except UserError as e:
            say(f"tokens: made again: {e}")
            remove_folder(folder)
    _write(folder, texts, cfg, tokenizer, **options)
    return _open(folder, title_ends)


def _write(
    folder: Path,
    texts: Iterable[tuple[str, str]],
    cfg: TextConfig,
    tokenizer: TextTokenizer,
    **options: bool,
) -> None:
    encode_pairs([("", "x")], cfg, tokenizer, **options | {"title_ends": True})  # has it room?
    # Processes of one machine may do this at the same time: each in its own folder.
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        ends, title_ends = array("q", [0]), array("i")
        pairs, total = iter(texts), operator.length_hint(texts)
        with (
            progress("tokenize", total=total, unit="texts") as bar,
            (partial / "ids.bin").open("wb") as out,
        ):
            while chunk := list(itertools.islice(pairs, _CHUNK)):
                rows, places = encode_pairs(chunk, cfg, tokenizer, **options)
                title_ends.extend(places)
                for ids in rows:
                    assert len(ids) <= cfg.max_tokens, (len(ids), cfg.max_tokens)
                    row = np.array(ids or [tokenizer.pad_id], np.int32)  # a row is never empty
                    out.write(row.tobytes())
                    ends.append(ends[-1] + len(row))
                bar.advance(len(chunk))
        np.save(partial / "offsets.npy", np.array(ends, np.int64))
        if options["title_ends"]:
            np.save(partial / "title_ends.npy", np.array(title_ends, np.int32))
        facts = {"rows": len(ends) - 1, "tokens": ends[-1], "tokenizer": tokenizer.fingerprint}
        files = [file_entry(path) for path in sorted(partial.iterdir())]
        write_manifest(partial, {**facts, "files": files})
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was first, with the same tokens
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _open(folder: Path, with_title_ends: bool) -> TokenTable:
    manifest = read_manifest(folder, "run", _REDO, _FORM)
    listed = {entry["file"] for entry in manifest["files"]}
    wanted = {"ids.bin", "offsets.npy", *(("title_ends.npy",) if with_title_ends else ())}
    if not wanted <= listed:
        raise damaged(folder / min(wanted - listed), "it is not in the manifest", _REDO)
    check_files(folder, manifest["files"], _REDO)
    rows, tokens = manifest["rows"], manifest["tokens"]
    offsets = read_npy(folder / "offsets.npy", _REDO, np.int64, 1)
    path, ends = folder / "title_ends.npy", None
    if with_title_ends:
        ends = read_npy(path, _REDO, np.int32, 1)
    lengths = np.diff(offsets)
    whole = len(offsets) == rows + 1 and offsets[0] == 0 and offsets[-1] == tokens
    whole &= (folder / "ids.bin").stat().st_size == 4 * tokens and lengths.min(initial=1) >= 1
    if ends is not None:
        whole &= len(ends) == rows and bool(((ends >= -1) & (ends < lengths)).all())
    if not whole:
        raise damaged(folder, f"files that do not hold {rows} rows of {tokens} tokens", _REDO)
    ids = np.memmap(folder / "ids.bin", np.int32, "r") if tokens else np.zeros(0, np.int32)
    return TokenTable(ids, offsets, ends)
