"""The tokenizer inside a GGUF file, rebuilt with `tokenizers`, for SmolLM2, Qwen 2 and 3, Gemma 2
and 3.

`transformers` would want torch for this, and its conversion loses what splits a text: digits, and
the words of Qwen. A file names the kind only; what it means is said here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)
from tokenizers.processors import TemplateProcessing

from scalingnote_jax.errors import bad_input
from scalingnote_jax.text.gguf_fields import GgufFields, read_gguf

_KEY = "tokenizer.ggml."
# Token types: of a vocabulary's pieces, of special tokens, of tokens that are found in a text whole
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_GEMMA = ("gemma2", "gemma3")  # architectures; Llama's own files alter a text's first space
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def gguf_tokenizer(path: Path) -> tuple[Tokenizer, int]:
    """The tokenizer and its pad id.

    Raises:
        UserError: not a GGUF file, or a kind of tokenizer that is not known here.
    """
    fields = read_gguf(path)
    kind, pre = fields[_KEY + "model"], fields.get(_KEY + "pre")
    if (kind, pre) in _BYTE_PAIRS:
        tokenizer = _byte_pairs(fields)
        _BYTE_PAIRS[kind, pre](tokenizer)
    elif kind == "llama" and fields["general.architecture"] in _GEMMA:
        tokenizer = _sentence_piece(path, fields)
    else:
        known = [*_BYTE_PAIRS, f"'llama' in a file of {' or '.join(_GEMMA)}"]
        raise bad_input(
            str(path),
            f"a tokenizer of kind {(kind, pre)}",
            " or ".join(map(str, known)),
            "name the model's tokenizer.json as the tower's tokenizer",
        )
    _add_tokens(tokenizer, fields)
    _add_ends(tokenizer, fields)
    end = fields.get(_KEY + "eos_token_id", 0)
    return tokenizer, fields.get(_KEY + "padding_token_id", end)


def _byte_pairs(fields: GgufFields) -> Tokenizer:
    """GPT-2's kind: merges of characters that stand for bytes."""
    merges = [tuple(merge.split(" ")) for merge in fields[_KEY + "merges"]]
    vocabulary = {token: i for i, token in enumerate(fields[_KEY + "tokens"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _smollm(tokenizer: Tokenizer) -> None:
    digits = pre_tokenizers.Digits(individual_digits=True)
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, letters])


def _qwen(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(_QWEN_WORDS), behavior="isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, letters])


_BYTE_PAIRS: dict[tuple[str, str], Callable[[Tokenizer], None]] = {
    ("gpt2", "smollm"): _smollm,
    ("gpt2", "qwen2"): _qwen,
}


def _sentence_piece(path: Path, fields: GgufFields) -> Tokenizer:
    """SentencePiece's byte pairs, in Gemma's form: a text is not altered but for its spaces, and
    what has no piece is bytes. Files have no merges: the best score of a merged piece goes first.
    """
    if fields.get(_KEY + "add_space_prefix", True):
        expected = "false, as Gemma's files say"
        fix = "name the model's tokenizer.json as the tower's tokenizer"
        raise bad_input(str(path), f"{_KEY}add_space_prefix true", expected, fix)
    tokens: list[str] = fields[_KEY + "tokens"]
    types = fields[_KEY + "token_type"]
    unknown = next((t for t, kind in zip(tokens, types, strict=True) if kind == _UNKNOWN), None)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    model = models.BPE(
        vocab=vocabulary,
        merges=_merges(tokens, fields[_KEY + "scores"], types),
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    spaces = decoders.Replace("▁", " ")
    tokenizer.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _merges(tokens: list[str], scores: list[float], types: list[int]) -> list[tuple[str, str]]:
    """The pairs that a vocabulary with scores merges, the first ones first. Of one piece's pairs,
    and of pieces with one score, the longest left part goes first: runs of spaces grow from their
    beginning, as long as there is a piece for them.
    """
    pieces = {
        token: score
        for token, score, kind in zip(tokens, scores, types, strict=True)
        if kind in (_NORMAL, _USER_DEFINED)
    }
    pairs = [
        (score, i, len(piece) - i, piece)
        for piece, score in pieces.items()
        for i in range(1, len(piece))
        if piece[:i] in pieces and piece[i:] in pieces
    ]
    pairs.sort(key=lambda pair: pair[:3], reverse=True)
    return [(piece[:i], piece[i:]) for _, i, _, piece in pairs]


def _add_tokens(tokenizer: Tokenizer, fields: GgufFields) -> None:
    """Tokens that a text is split at before all else: special ones, and what users defined."""
    tokens = list(zip(fields[_KEY + "tokens"], fields[_KEY + "token_type"], strict=True))
    special = [AddedToken(t, special=True, normalized=False) for t, k in tokens if k == _CONTROL]
    plain = [
        AddedToken(t, special=False, normalized=False) for t, k in tokens if k == _USER_DEFINED
    ]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(plain)


def _add_ends(tokenizer: Tokenizer, fields: GgufFields) -> None:
    """Puts a first and a last token around every text, if the file says so (SmolLM2: neither)."""
    tokens: list[str] = fields[_KEY + "tokens"]
    added = {
        end: (tokens[fields[f"{_KEY}{end}_token_id"]], fields[f"{_KEY}{end}_token_id"])
        for end in ("bos", "eos")
        if fields.get(f"{_KEY}add_{end}_token", False)
    }
    if added:
        text = [
            added[e][0] if e in added else e for e in ("bos", "$A", "eos") if e in {*added, "$A"}
        ]
        tokenizer.post_processor = TemplateProcessing(
            single=text, special_tokens=list(added.values())
        )
