"""Texts as tables of token ids: tokenised once, kept on disk, read by row.

Not for which rows make a batch (`pipeline.py`) or what a tokenizer does (`models/tokenizer.py`).
"""

from __future__ import annotations

import itertools
import json
import operator
import os
import re
import shutil
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from scalingnote_jax.config import TextConfig
from scalingnote_jax.errors import bad_input
from scalingnote_jax.fingerprint import content_hash
from scalingnote_jax.progress import progress

_CHUNK = 1024  # texts given to the tokenizer at a time
_FIELD = re.compile(r"\{(title|text)\}")


class TextTokenizer(Protocol):
    """The part of `models.tokenizer.TextTokenizer` that is needed here."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that decides on the ids."""
        ...

    @property
    def pad_id(self) -> int:
        """Stands for a text that has no tokens."""
        ...

    def encode(self, texts: list[str], max_tokens: int) -> list[list[int]]:
        """Token ids of each text, special tokens included, at most `max_tokens`."""
        ...


class TokenTable:
    """Token ids of many texts, row after row.

    Attributes:
        ids: int32, flat; memory-mapped when it comes from disk.
        offsets: int64 [n + 1]; row i is `ids[offsets[i]:offsets[i + 1]]`.
        lengths: int32 [n], each at least 1.
    """

    def __init__(self, ids: np.ndarray, offsets: np.ndarray):
        self.ids, self.offsets = ids, offsets
        self.lengths: np.ndarray = np.diff(offsets).astype(np.int32)

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


def render(cfg: TextConfig, title: str, text: str) -> str:
    """The prompt with title and text filled in.

    Where there is no text and the prompt does not show the title, the title is the text: real
    collections have documents that are a title only.
    """
    fields = {"title": title, "text": text}
    if not text.strip() and "{title}" not in cfg.prompt:
        fields["text"] = title
    return _FIELD.sub(lambda match: fields[match[1]], cfg.prompt)


def bucket_of(length: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds `length` tokens."""
    return min(bucket for bucket in buckets if bucket >= length)


def tokenize(
    texts: Iterable[tuple[str, str]],
    cfg: TextConfig,
    tokenizer: TextTokenizer,
    cache_dir: Path,
    key: str,
) -> TokenTable:
    """The token table of (title, text) pairs, from `cache_dir` if it is there.

    Args:
        texts: read only if the table is not there yet, in one pass.
        cfg: prompt and length; the buckets do not matter here.
        key: content hash of the texts. With the tokenizer's and `cfg`'s it names the table.

    Raises:
        UserError: the prompt does not show the text.
    """
    if "{text}" not in cfg.prompt:
        fix = "add {text} where the text goes"
        raise bad_input("text.prompt", repr(cfg.prompt), "a prompt with {text} in it", fix)
    made_from = [key, tokenizer.fingerprint, cfg.prompt, cfg.max_tokens]
    folder = Path(cache_dir) / content_hash(made_from)[:24]
    if not folder.is_dir():
        _write(folder, texts, cfg, tokenizer)
    return _open(folder)


def _write(
    folder: Path, texts: Iterable[tuple[str, str]], cfg: TextConfig, tokenizer: TextTokenizer
) -> None:
    # Processes of one machine may do this at the same time: each in its own folder.
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        ends = array("q", [0])
        rendered = (render(cfg, title, text) for title, text in texts)
        total = operator.length_hint(texts)
        with (
            progress("tokenize", total=total, unit="texts") as bar,
            (partial / "ids.bin").open("wb") as out,
        ):
            while chunk := list(itertools.islice(rendered, _CHUNK)):
                for ids in tokenizer.encode(chunk, cfg.max_tokens):
                    assert len(ids) <= cfg.max_tokens, (len(ids), cfg.max_tokens)
                    row = np.array(ids or [tokenizer.pad_id], np.int32)  # a row is never empty
                    out.write(row.tobytes())
                    ends.append(ends[-1] + len(row))
                bar.advance(len(chunk))
        np.save(partial / "offsets.npy", np.array(ends, np.int64))
        meta = {"rows": len(ends) - 1, "tokens": ends[-1], "tokenizer": tokenizer.fingerprint}
        (partial / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was first, with the same tokens
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _open(folder: Path) -> TokenTable:
    try:
        offsets = np.load(folder / "offsets.npy")
        size = (folder / "ids.bin").stat().st_size
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        whole = offsets.shape == (meta["rows"] + 1,) and size == 4 * meta["tokens"]
    except (OSError, ValueError, EOFError, KeyError):
        whole = False
    if not whole:
        fix = "delete the folder; the tokens are then made again"
        raise bad_input(str(folder), "a damaged table of tokens", "what was written there", fix)
    if not size:
        return TokenTable(np.zeros(0, np.int32), offsets)
    return TokenTable(np.memmap(folder / "ids.bin", np.int32, "r"), offsets)
