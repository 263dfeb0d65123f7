"""Tokenizers of GGUF files against the ones that they come from: Qwen's as `transformers` has it,
and SentencePiece's own ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import pre_tokenizers

from scalingnote_jax.errors import UserError
from scalingnote_jax.text.tokenizer import load_tokenizer

TEXTS = [
    "it's 2024, ISN'T it? we'Ll see",
    "line one\n\n\n  line two\t\tend  ",
    "nai\u0308ve café 北京 🙂👍🏽",
    "<think>x</think> <|im_start|>user\n <|endoftext|>",
    "an an  the then",
    " ",
]
MERGES = ["t h", "th e", "Ġ a", "Ġa n", "Ġ the", "Ġ Ġ", "Ċ Ċ", "i s"]
ADDED = {"<|endoftext|>": 3, "<|im_start|>": 3, "<think>": 4}  # and their types


def write(
    path: Path,
    architecture: str,
    tokens: list[str],
    types: list[int],
    change: Callable[[gguf.GGUFWriter], None],
) -> str:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def qwen(path: Path, add_eos: bool = False) -> tuple[str, list[str]]:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(merge.replace(" ", "") for merge in MERGES), *ADDED, "[PAD99]"]
    types = [1] * (len(letters) + len(MERGES)) + [*ADDED.values(), 5]
    end = tokens.index("<|endoftext|>")

    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_merges(MERGES)
        writer.add_eos_token_id(end)
        writer.add_add_eos_token(add_eos)

    return write(path, "qwen3", tokens, types, change), tokens


def test_qwen_equals_the_tokenizer_of_transformers(tmp_path: Path) -> None:
    from transformers import Qwen2Tokenizer

    ref, tokens = qwen(tmp_path / "m.gguf")
    ids = {token: i for i, token in enumerate(tokens) if token != "[PAD99]"}
    theirs = Qwen2Tokenizer(vocab=ids, merges=[tuple(merge.split(" ")) for merge in MERGES])
    theirs.add_tokens(["<|im_start|>"], special_tokens=True)
    theirs.add_tokens(["<think>"])
    ours = load_tokenizer(ref)
    assert ours.encode(TEXTS, 99) == [theirs(text)["input_ids"] for text in TEXTS]
    the_then = ours.encode(["an an  the then"], 99)[0]
    assert [tokens[i] for i in the_then] == ["a", "n", "Ġan", "Ġ", "Ġthe", "Ġthe", "n"]
    assert ours.pad_id == ids["<|endoftext|>"]
    with_end = load_tokenizer(qwen(tmp_path / "e.gguf", add_eos=True)[0])  # as Qwen3-Embedding has
    assert with_end.encode(["an"], 99) == [[*ours.encode(["an"], 99)[0], ids["<|endoftext|>"]]]


@pytest.fixture(scope="module")
def pieces() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("sentence_piece.json").read_text(encoding="utf-8"))


def gemma(path: Path, pieces: dict[str, Any], *, spaces: bool = False, prefix: bool = False) -> str:
    """`spaces`: what users defined has spaces for "▁", as the newer converters write it."""

    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(pieces["scores"])
        writer.add_pad_token_id(0)
        writer.add_eos_token_id(1)
        writer.add_bos_token_id(2)
        writer.add_add_bos_token(True)
        writer.add_add_space_prefix(prefix)

    pairs = zip(pieces["tokens"], pieces["types"], strict=True)
    tokens = [t.replace("▁", " ") if spaces and kind == 4 else t for t, kind in pairs]
    return write(path, "gemma3", tokens, pieces["types"], change)


@pytest.mark.parametrize("spaces", [False, True])
def test_gemma_has_the_ids_of_sentence_piece(
    pieces: dict[str, Any], spaces: bool, tmp_path: Path
) -> None:
    ours = load_tokenizer(gemma(tmp_path / "m.gguf", pieces, spaces=spaces))
    texts = pieces["texts"]
    assert "  two spaces,   three,     five " in texts
    assert ours.encode(list(texts), 99) == [[2, *ids] for ids in texts.values()]
    assert ours.encode(["<start_of_turn>a"], 99)[0][1] == pieces["tokens"].index("<start_of_turn>")
    assert (ours.pad_id, ours.num_special) == (0, 1)


def test_another_kind_of_sentence_piece_is_refused(pieces: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"add_space_prefix true; expected false.*tokenizer\.json"):
        load_tokenizer(gemma(tmp_path / "m.gguf", pieces, prefix=True))
