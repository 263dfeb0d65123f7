"""A tower's tokens: its tokenizer, its token tables in the workdir, and the contract they make.

The contract (prompt, special tokens, length, pooling, tokenizer) leaves training with the weights,
because vectors made under another one look right and retrieve nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scalingnote_jax import mesh as mesh_lib
from scalingnote_jax.config import TowerConfig
from scalingnote_jax.data.tokens import TokenTable, tokenize
from scalingnote_jax.models.checks import check_tokenizer
from scalingnote_jax.models.tokenizer import TextTokenizer, load_tokenizer
from scalingnote_jax.models.towers import TowerDef
from scalingnote_jax.workdir import Workdir


def tower_tokenizer(cfg: TowerConfig) -> TextTokenizer:
    """A tower's tokenizer: its own, or the one that came with its weights."""
    return load_tokenizer(cfg.tokenizer or cfg.weights)


def token_table(
    texts: Iterable[tuple[str, str]],
    cfg: TowerConfig,
    tokenizer: TextTokenizer,
    workdir: Workdir,
    key: str,
) -> TokenTable:
    """Tokens of (title, text) pairs for one side of a tower; made once by the first process, then
    read from the workdir.
    """
    if mesh_lib.first_process():
        table = tokenize(texts, cfg.text, tokenizer, workdir.tokens, key)
    mesh_lib.barrier(f"tokens {key}")
    if not mesh_lib.first_process():
        table = tokenize(texts, cfg.text, tokenizer, workdir.tokens, key)
    return table


def contract(tower: TowerDef, tokenizer: TextTokenizer) -> dict[str, Any]:
    """What a text goes through on its way to a vector: saved with the weights, enforced when
    encoding.

    Raises:
        UserError: the tokenizer is not one for this tower.
    """
    check_tokenizer(tower.cfg, tower.shape, tokenizer)
    return {
        "prompt": tower.cfg.text.prompt,
        "max_tokens": tower.cfg.text.max_tokens,
        "pooling": tower.cfg.pooling,
        "tokenizer": tokenizer.fingerprint,
        "dim": tower.dim,
    }
