"""A tower's tokens: its tokenizer, its token tables in the workdir, and the contract they make.

The contract (prompt, lengths, special tokens, what sees what, pooling) leaves training with the
weights, one for each side, because vectors made under another one look right and retrieve nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from scalingnote_jax.config import TowerConfig
from scalingnote_jax.config.towers import Shape
from scalingnote_jax.devices import mesh as mesh_lib
from scalingnote_jax.errors import bad_input
from scalingnote_jax.text.prompts import encode_pairs
from scalingnote_jax.text.tokenizer import TextTokenizer, load_tokenizer
from scalingnote_jax.text.tokens import TokenTable, tokenize


class TowerText(Protocol):
    """What of a `TowerDef` decides about its texts."""

    @property
    def cfg(self) -> TowerConfig: ...
    @property
    def shape(self) -> Shape: ...
    @property
    def dim(self) -> int: ...


def tower_tokenizer(cfg: TowerConfig) -> TextTokenizer:
    """A tower's tokenizer: its own, or the one that came with its weights."""
    return load_tokenizer(cfg.tokenizer or cfg.weights)


def token_table(
    texts: Iterable[tuple[str, str]],
    cfg: TowerConfig,
    tokenizer: TextTokenizer,
    folder: Path,
    key: str,
    *,
    title_ends: bool = False,
) -> TokenTable:
    """Tokens of (title, text) pairs for one side of a tower; made once by the first process, then
    read from `folder`.

    Args:
        title_ends: also where the titles end, as `TokenTable.beginnings`.
    """
    read = partial(
        tokenize,
        texts,
        cfg.text,
        tokenizer,
        folder,
        key,
        to_marker=to_marker(cfg),
        title_ends=title_ends,
    )
    if mesh_lib.first_process():
        table = read()
    mesh_lib.barrier(f"tokens {key}")
    return table if mesh_lib.first_process() else read()


def tokens_of(
    pairs: Sequence[tuple[str, str]], cfg: TowerConfig, tokenizer: TextTokenizer
) -> TokenTable:
    """As `token_table`, in memory."""
    ids, _ = encode_pairs(pairs, cfg.text, tokenizer, to_marker=to_marker(cfg))
    return TokenTable.from_lists(ids)


def to_marker(cfg: TowerConfig) -> bool:
    """Whether the tower reads its texts up to the prompt's marker only."""
    return cfg.pooling == "marker"


def contract(tower: TowerText, tokenizer: TextTokenizer) -> dict[str, Any]:
    """What a text goes through on its way to a vector: saved with the weights, enforced when
    encoding.

    Raises:
        UserError: the tokenizer is not one for this tower.
    """
    check_tokenizer(tower.cfg, tower.shape, tokenizer)
    return {
        "prompt": tower.cfg.text.prompt,
        "max_tokens": tower.cfg.text.max_tokens,
        "title_tokens": tower.cfg.text.title_tokens,
        "pooling": tower.cfg.pooling,
        "bidirectional": tower.cfg.bidirectional,
        "tokenizer": tokenizer.fingerprint,  # of all its files' settings, special tokens included
        "dim": tower.dim,
    }


def check_tokenizer(
    cfg: TowerConfig, shape: Shape, tokenizer: TextTokenizer, where: str = "tower"
) -> None:
    """Refuses a tokenizer that can give ids outside the tower's table, or that leaves no room.

    Raises:
        UserError: the vocabulary is too large, or max_tokens holds special tokens only.
    """
    if tokenizer.vocab_size > shape.vocab_size:
        raise bad_input(
            f"--{where}.tokenizer",
            f"token ids up to {tokenizer.vocab_size - 1}",
            f"ids below {shape.vocab_size}, the rows of the embedding table",
            "use the tokenizer that the weights were trained with",
        )
    if cfg.text.max_tokens <= tokenizer.num_special:
        raise bad_input(
            f"--{where}.text.max_tokens",
            str(cfg.text.max_tokens),
            f"more than the {tokenizer.num_special} special tokens of every text",
            "raise it",
        )
