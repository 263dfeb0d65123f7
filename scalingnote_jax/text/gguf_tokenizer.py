"""The tokenizer inside a GGUF file, rebuilt with `tokenizers`.

`transformers` would want torch for this, and its conversion loses the split of numbers into digits.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from scalingnote_jax.errors import bad_input
from scalingnote_jax.text.gguf_fields import GgufFields, read_gguf

_KEY = "tokenizer.ggml."
_CONTROL = 3  # the token type of special tokens


def gguf_tokenizer(path: Path) -> tuple[Tokenizer, int]:
    """The tokenizer and its pad id.

    Raises:
        UserError: not a GGUF file, or a kind of tokenizer that is not known here.
    """
    fields = read_gguf(path)
    kind = (fields[_KEY + "model"], fields.get(_KEY + "pre"))
    if kind != ("gpt2", "smollm"):
        raise bad_input(
            str(path),
            f"a tokenizer of kind {kind}",
            "('gpt2', 'smollm')",
            "name the model's tokenizer.json as the tower's tokenizer",
        )
    tokens: list[str] = fields[_KEY + "tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields[_KEY + "merges"]]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, letters])
    tokenizer.decoder = decoders.ByteLevel()
    types = fields[_KEY + "token_type"]
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    _add_ends(tokenizer, fields, tokens)
    end = fields.get(_KEY + "eos_token_id", 0)
    return tokenizer, fields.get(_KEY + "padding_token_id", end)


def _add_ends(tokenizer: Tokenizer, fields: GgufFields, tokens: list[str]) -> None:
    """Puts a first and a last token around every text, if the file says so (SmolLM2: neither)."""
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
