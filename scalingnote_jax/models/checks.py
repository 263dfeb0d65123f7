"""What can be wrong with a tower's config, each in one line for the user. Not for files on disk."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import get_args, get_type_hints

from scalingnote_jax.config import (
    BertShape,
    DecoderShape,
    LoraConfig,
    ModernBertShape,
    TowerConfig,
)
from scalingnote_jax.config.towers import Shape
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.weights.layouts import layout_of


def check_choices(cfg: TowerConfig, where: str) -> None:
    """A config file is Python, and nothing has checked its words yet."""
    hints = get_type_hints(TowerConfig)
    for name in ("pooling", "remat", "dtype"):
        value, choices = getattr(cfg, name), get_args(hints[name])
        if value not in choices:
            raise bad_input(f"--{where}.{name}", repr(value), f"one of {choices}", "choose one")
    if not 0 <= cfg.dropout < 1:
        raise bad_input(f"--{where}.dropout", str(cfg.dropout), "from 0 to below 1", "try 0.1")
    if cfg.projection < 0:
        raise bad_input(f"--{where}.projection", str(cfg.projection), "0 or more", "0 means none")


def check_lora(cfg: TowerConfig, shape: Shape, where: str) -> None:
    """Adapters have a rank, and weights to stand beside."""
    lora, field = cfg.lora, f"--{where}.lora"
    if lora.rank < 0:
        raise bad_input(f"{field}.rank", str(lora.rank), "0 or more", "0 means none")
    choices = get_args(get_type_hints(LoraConfig)["base_dtype"])
    if lora.base_dtype not in choices:
        raise bad_input(f"{field}.base_dtype", repr(lora.base_dtype), str(choices), "choose one")
    if lora.base_dtype != "float32" and not lora.rank:
        given, fix = f"{lora.base_dtype!r} with rank 0", f"set {field}.rank to 16"
        raise bad_input(f"{field}.base_dtype", given, "adapters, as nothing else is trained", fix)
    linear = [path for path, stored in layout_of(shape).stored.items() if stored.inputs]
    for pattern in lora.modules if lora.rank else ():
        if not any(re.search(pattern, path) for path in linear):
            raise bad_input(
                f"{field}.modules", repr(pattern), f"a match in {', '.join(linear)}", "mend it"
            )


def check_shape(shape: Shape, where: str) -> None:
    """Sizes are positive, and divide where they must."""

    def refuse(field: str, given: float, expected: str) -> None:
        raise bad_input(f"--{where}.shape.{field}", str(given), expected, "change the shape")

    for field in fields(shape):
        value = getattr(shape, field.name)
        # Where the default is 0 or False, that turns something off; without layers: models/lookup.
        off = value == (0 if field.name == "num_layers" else field.default)
        if isinstance(value, (int, float)) and value <= 0 and not off:
            refuse(field.name, value, "a positive number")
    if isinstance(shape, DecoderShape):
        if shape.num_heads % shape.num_kv_heads:
            refuse("num_kv_heads", shape.num_kv_heads, f"a divisor of {shape.num_heads} heads")
        if shape.head_dim % 2:
            refuse("head_dim", shape.head_dim, "an even number, for rotary positions")
        return
    if shape.hidden_size % shape.num_heads:
        refuse("num_heads", shape.num_heads, f"a divisor of hidden_size {shape.hidden_size}")
    if isinstance(shape, ModernBertShape) and shape.hidden_size // shape.num_heads % 2:
        expected = "heads of an even size, for rotary positions"
        refuse("num_heads", shape.num_heads, expected)


def check_text(cfg: TowerConfig, shape: Shape, where: str) -> None:
    """Buckets cover max_tokens, and the positions suffice."""
    text, field = cfg.text, f"--{where}.text"
    if list(text.buckets) != sorted({b for b in text.buckets if b > 0}) or not text.buckets:
        raise bad_input(
            f"{field}.buckets", str(text.buckets), "rising positive lengths", "sort them"
        )
    if text.buckets[-1] != text.max_tokens:
        raise bad_input(
            f"{field}.buckets",
            f"{text.buckets}, max_tokens {text.max_tokens}",
            "a last bucket equal to max_tokens",
            "make them equal",
        )
    if isinstance(shape, BertShape) and text.max_tokens > shape.max_positions:
        raise bad_input(
            f"{field}.max_tokens",
            str(text.max_tokens),
            f"at most {shape.max_positions}, the positions of {cfg.weights}",
            "lower it",
        )
    if text.title_tokens < 0:
        raise bad_input(f"{field}.title_tokens", str(text.title_tokens), "0 or more", "0: no limit")


def check_lookup(cfg: TowerConfig, shape: Shape, where: str) -> None:
    """A tower without layers has nothing but a table of token vectors and a projection."""
    if shape.num_layers:
        return

    def refuse(field: str, given: str, expected: str) -> None:
        raise bad_input(f"--{where}.{field}", given, expected, "change it, or keep some layers")

    if not isinstance(shape, DecoderShape):
        refuse("num_layers", "no layers of an encoder", "a decoder's table: positions are apart")
    if cfg.pooling != "mean":
        refuse("pooling", f"{cfg.pooling!r} of tokens that see no other", "'mean'")
    for name, off in (("bidirectional", False), ("dropout", 0.0), ("remat", "none")):
        if (value := getattr(cfg, name)) != off:
            refuse(name, f"{value!r} without layers", repr(off))
    if cfg.lora != LoraConfig():
        refuse("lora", "adapters without layers", "no adapters")


def check_attention(cfg: TowerConfig, shape: Shape, where: str) -> None:
    """The pooled token has seen the text: which one has depends on what sees what."""
    causal = isinstance(shape, DecoderShape) and not cfg.bidirectional

    def refuse(field: str, given: str, expected: str) -> None:
        raise bad_input(f"--{where}.{field}", given, expected, "choose another value")

    if cfg.bidirectional and not isinstance(shape, DecoderShape):
        refuse("bidirectional", "true for an encoder, which always is", "false")
    if cfg.pooling == "cls" and causal:
        refuse("pooling", "'cls' on a decoder, whose first token sees no other", "'last' or 'mean'")
    if cfg.pooling == "marker" and not causal:
        refuse(
            "pooling", "'marker' where tokens see those behind the marker too", "'last' or 'mean'"
        )
