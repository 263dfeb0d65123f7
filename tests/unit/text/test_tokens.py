"""Token tables: prompts, lengths, padding, the cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from scalingnote_jax.config import TextConfig
from scalingnote_jax.errors import UserError
from scalingnote_jax.text.tokens import TokenTable, bucket_of, tokenize


class Letters:
    """One token a character, without special tokens; counts its calls."""

    fingerprint = "letters"
    pad_id = 7

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, texts: list[str], max_tokens: int) -> list[list[int]]:
        self.texts += texts
        return [[ord(c) for c in text][:max_tokens] for text in texts]

    def encode_whole(self, texts: list[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        return [([ord(c) for c in t], [(i, i + 1) for i in range(len(t))]) for t in texts]


def forbidden() -> Iterator[tuple[str, str]]:
    raise AssertionError("the texts were read again")
    yield "", ""


def test_take_pads_on_the_right_and_masks() -> None:
    table = TokenTable.from_lists([[5, 6, 7], [0], [8, 9]])
    tokens, mask = table.take(np.array([2, 0, 1]), 4)
    assert tokens.tolist() == [[8, 9, 0, 0], [5, 6, 7, 0], [0, 0, 0, 0]]
    assert mask.tolist() == [
        [True, True, False, False],
        [True, True, True, False],
        [True, False, False, False],  # token 0 is real here: only the mask tells
    ]
    assert (tokens.dtype, mask.dtype) == (np.int32, np.bool_)
    assert table.lengths.tolist() == [3, 1, 2]
    assert table.row(2).tolist() == [8, 9]
    assert len(table) == 3


def test_take_keeps_the_shape_of_the_rows() -> None:
    table = TokenTable.from_lists([[1], [2, 3], [4]])
    tokens, mask = table.take(np.array([[0, 1], [1, 2]]), 2)
    assert tokens.tolist() == [[[1, 0], [2, 3]], [[2, 3], [4, 0]]]
    assert mask.sum() == 6


def test_take_refuses_to_cut() -> None:
    with pytest.raises(AssertionError):
        TokenTable.from_lists([[1, 2, 3]]).take(np.array([0]), 2)


def test_bucket_of() -> None:
    assert [bucket_of(n, (16, 32, 64)) for n in (1, 16, 17, 64)] == [16, 16, 32, 64]


def test_tokenize_cuts_fills_and_keeps(tmp_path: Path) -> None:
    cfg, letters = TextConfig(prompt="{text}", max_tokens=4), Letters()
    texts = [("", "abcdef"), ("T", ""), ("", "")]
    table = tokenize(iter(texts), cfg, letters, tmp_path, "key")
    assert [table.row(i).tolist() for i in range(3)] == [[97, 98, 99, 100], [84], [7]]
    assert isinstance(table.ids, np.memmap)
    again = tokenize(forbidden(), cfg, letters, tmp_path, "key")
    assert np.array_equal(again.ids, table.ids)
    assert np.array_equal(again.offsets, table.offsets)
    assert letters.texts == ["abcdef", "T", ""], "tokenised once"


def test_the_cache_knows_what_the_tokens_depend_on(tmp_path: Path) -> None:
    letters, other = Letters(), Letters()
    other.fingerprint = "other"
    base = TextConfig(max_tokens=8, buckets=(8,))
    calls = [
        (base, letters, "key", 1),
        (TextConfig(max_tokens=8, buckets=(4, 8)), letters, "key", 1),  # shapes only
        (TextConfig(max_tokens=4, buckets=(4,)), letters, "key", 2),
        (TextConfig(max_tokens=8, buckets=(8,), prompt="> {text}"), letters, "key", 3),
        (base, other, "key", 4),
        (base, letters, "other key", 5),
        (TextConfig(max_tokens=8, buckets=(8,), title_tokens=2), letters, "key", 6),
    ]
    for cfg, tokenizer, key, folders in calls:
        tokenize([("", "text")], cfg, tokenizer, tmp_path, key)
        assert len(list(tmp_path.iterdir())) == folders
    tokenize([("", "text")], base, letters, tmp_path, "key", title_ends=True)
    assert len(list(tmp_path.iterdir())) == 7


def test_many_texts_keep_their_order(tmp_path: Path) -> None:
    texts = [("", "x" * (1 + i % 7)) for i in range(2500)]  # more than one chunk
    table = tokenize(texts, TextConfig(), Letters(), tmp_path, "key")
    assert table.lengths.tolist() == [1 + i % 7 for i in range(2500)]


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    class Breaks(Letters):
        def encode(self, texts: list[str], max_tokens: int) -> list[list[int]]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize([("", "text")], TextConfig(), Breaks(), tmp_path, "key")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_table_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = TextConfig()
    tokenize([("", "text")], cfg, Letters(), tmp_path, "key")
    (folder,) = tmp_path.iterdir()
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name, content in whole.items():
        for harmed in (content + b"more", content[:-2], b"\xff" + content[1:], None):
            path = folder / name
            path.unlink() if harmed is None else path.write_bytes(harmed)
            tokenize([("", "text")], cfg, Letters(), tmp_path, "key")
            assert f"{folder.name}/{name}: " in capsys.readouterr().err
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


def test_no_texts(tmp_path: Path) -> None:
    table = tokenize([], TextConfig(), Letters(), tmp_path, "key")
    assert len(table) == 0
    assert table.ids.shape == (0,)


def test_a_prompt_without_the_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"text\.prompt: 'query:'; expected a prompt with \{text\}"):
        tokenize([("", "x")], TextConfig(prompt="query:"), Letters(), tmp_path, "key")
