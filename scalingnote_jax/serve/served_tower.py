"""A tower as the server uses it: texts → tokens → vectors, with what each costs. Not for loading
one: `vectors/encoder.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from scalingnote_jax.text.contract import to_marker
from scalingnote_jax.text.prompts import encode_pairs
from scalingnote_jax.text.tokenizer import TextTokenizer
from scalingnote_jax.text.tokens import TokenTable, bucket_of
from scalingnote_jax.vectors.encoder import Encoder


class Tokens(NamedTuple):
    """One text's.

    Attributes:
        ids: as the tower gets them.
        cut: whether the text had more.
    """

    ids: list[int]
    cut: bool


class ServedTower:
    """A tower with its tokenizer. `tokens` may be called by any thread, `vectors` by one."""

    def __init__(self, encoder: Encoder, batch_tokens: int):
        """`batch_tokens`: the most that a batch may have, padding included; 0: the encoder's."""
        self._encoder, self._text = encoder, encoder.tower.cfg.text
        self._for_long = encoder.tokenizer.copy()
        self.batch_tokens = batch_tokens or encoder.batch_size * self._text.max_tokens
        self.dim, self.max_tokens = encoder.dim, self._text.max_tokens
        self.pooling = encoder.tower.cfg.pooling

    def tokens(self, texts: Sequence[str], prompt: str, long: bool) -> list[Tokens]:
        """Tokens of texts, in the tower's own prompt.

        Args:
            prompt: of a mixture's collection, in front of each text.
            long: takes a tokenizer of its own, which no short texts wait for.
        """
        tokenizer = self._for_long if long else self._encoder.tokenizer
        pairs = [("", prompt + text) for text in texts]
        rows = self._ids(tokenizer, pairs, self.max_tokens)
        full = [i for i, ids in enumerate(rows) if len(ids) == self.max_tokens]
        longer = self._ids(tokenizer, [pairs[i] for i in full], self.max_tokens + 1)
        cut = {i for i, ids in zip(full, longer, strict=True) if len(ids) > self.max_tokens}
        return [Tokens(ids, i in cut) for i, ids in enumerate(rows)]

    def _ids(
        self, tokenizer: TextTokenizer, pairs: list[tuple[str, str]], most: int
    ) -> list[list[int]]:
        if not pairs:
            return []
        cfg, text = self._encoder.tower.cfg, replace(self._text, max_tokens=most)
        return encode_pairs(pairs, text, tokenizer, to_marker=to_marker(cfg))[0]

    def cost(self, tokens: Tokens) -> int:
        """Tokens of its row in a batch, padding included."""
        return bucket_of(len(tokens.ids), self._text.buckets)

    def vectors(self, rows: Sequence[Tokens]) -> np.ndarray:
        """[n, dim] float32, before the L2 norm."""
        table = TokenTable.from_lists([row.ids for row in rows])
        return self._encoder.encode_table(table)[:, : self.dim]

    def warm(self) -> None:
        """Compiles every shape that a batch can have."""
        for length in self._text.buckets:
            rows = 1
            while rows * length <= max(self.batch_tokens, length):
                self.vectors([Tokens([0] * length, False)] * rows)
                rows *= 2
