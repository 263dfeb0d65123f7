"""A tower's config with what its folder of weights says, where the config leaves it open.

Done once, before a step is run, so that all that follows (the contract, the hashes of steps, the
workdir's config) has the values that are used. A field at its default is open. The folder's pooling
and projection are part of the model: a config that says otherwise is refused, and `body_only` takes
the body alone. Prompts and shorter texts are the user's choice, and said.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from scalingnote_jax.config import TextConfig, TowerConfig, replace
from scalingnote_jax.config.forms.prompt import own_words
from scalingnote_jax.config.stages import Side
from scalingnote_jax.config.values import field_values
from scalingnote_jax.errors import bad_input
from scalingnote_jax.files.guard import reading
from scalingnote_jax.hub import locate
from scalingnote_jax.models.weights.beside.folder_settings import BODY_ALONE, FolderSettings
from scalingnote_jax.models.weights.beside.own_export import export_settings
from scalingnote_jax.models.weights.beside.sentence_folder import sentence_settings
from scalingnote_jax.text.gguf_fields import read_gguf

_SHORTEST = 16  # bucket
_GGUF_POOLINGS = {1: "mean", 2: "cls", 3: "last"}  # 0: none is said; 4: scores, no vector


def settings_of(path: Path) -> FolderSettings | None:
    """What a folder or a .gguf file says beside the body; None: nothing.

    Raises:
        UserError: something that a tower has not.
    """
    if path.is_dir():
        with reading(path, "a folder of weights, and settings beside them"):
            return sentence_settings(path) or export_settings(path)
    if path.suffix != ".gguf":
        return None  # `open_weights` says what is wrong with it
    with reading(path, "a whole .gguf file"):
        return _gguf_settings(path)


def _gguf_settings(path: Path) -> FolderSettings | None:
    fields = read_gguf(path)
    key = f"{fields.get('general.architecture')}.pooling_type"
    kind = fields.get(key, 0)
    if not kind:
        return None
    if kind not in _GGUF_POOLINGS:
        raise bad_input(str(path), f"{key} {kind}", f"one of {sorted(_GGUF_POOLINGS)}", BODY_ALONE)
    pooling = _GGUF_POOLINGS[kind]
    return FolderSettings(f"{key} {kind} ({pooling})", pooling)


def complete_tower(cfg: TowerConfig, side: Side, where: str) -> tuple[TowerConfig, list[str]]:
    """`cfg` with what its weights bring, and lines for the user that say what that is.

    Args:
        where: what it is called in the config: "teacher.query".

    Raises:
        UserError: the weights are not there, bring something that a tower has not, or the config
            contradicts them.
    """
    if cfg.body_only or cfg.weights == "random" or cfg.weights.startswith("teacher:"):
        return cfg, []
    settings = settings_of(locate(cfg.weights))
    if settings is None:
        return cfg, []
    taken: dict[str, Any] = {}
    for name, value in (("pooling", settings.pooling), ("projection", settings.dim)):
        if value and getattr(cfg, name) == getattr(TowerConfig(), name):
            taken[name] = value
    text = _text(cfg.text, settings, side, where)
    complete = replace(cfg, text=text, **taken)
    check_settings(complete, settings, where)
    lines = []
    if complete != cfg:
        before, after = field_values(cfg), field_values(complete)
        values = [f"{n} {v!r}" for n, v in after.items() if v != before[n]]
        lines.append(f"{where}: {', '.join(values)}; from {cfg.weights}: {settings.said}")
    theirs = settings.prompts.get(side, text.prompt)
    if own_words(theirs) != own_words(text.prompt):
        ours = f"{where}: prompt {text.prompt!r}, as the config says"
        lines.append(f"{ours}; {cfg.weights} has {theirs!r}")
    return complete, lines


def check_settings(cfg: TowerConfig, settings: FolderSettings, where: str) -> None:
    """Refuses a tower that does something else with the body than its folder says.

    Raises:
        UserError: names both.
    """
    for name, theirs in (("pooling", settings.pooling), ("projection", settings.dim)):
        ours = getattr(cfg, name)
        if theirs and ours != theirs:
            raise bad_input(
                f"--{where}.{name}",
                repr(ours),
                f"{theirs!r}, as {cfg.weights} says: {settings.said}",
                f"leave it out, or {BODY_ALONE}",
            )


def folder_projection(settings: FolderSettings, hidden_size: int, ref: str) -> np.ndarray:
    """[E, D] float32, the folder's linear layers.

    Raises:
        UserError: they are of another body.
    """
    weight = settings.projection()
    if len(weight) != hidden_size:
        given, expected = f"a projection from {len(weight)}", f"from {hidden_size}, the hidden size"
        raise bad_input(ref, given, expected, BODY_ALONE)
    return weight


def _text(text: TextConfig, settings: FolderSettings, side: Side, where: str) -> TextConfig:
    default = TextConfig()
    taken: dict[str, Any] = {}
    theirs = settings.prompts.get(side, default.prompt)
    if not own_words(text.prompt).strip():  # title and text alone: the folder's words go in front
        taken["prompt"] = theirs.replace(default.prompt, text.prompt)
    most = settings.max_tokens.get(side, text.max_tokens)
    if (text.max_tokens, text.buckets) == (default.max_tokens, default.buckets):
        taken |= {"max_tokens": most, "buckets": _buckets(most)}
    elif text.max_tokens > most:
        expected = f"at most {most}, as the folder of the weights says"
        fix = f"lower it, or {BODY_ALONE}"
        raise bad_input(f"--{where}.text.max_tokens", str(text.max_tokens), expected, fix)
    if side in settings.prompts and text.title_tokens == default.title_tokens:
        taken["title_tokens"] = settings.title_tokens
    return replace(text, **taken)


def _buckets(most: int) -> tuple[int, ...]:
    """Lengths that double up to the longest."""
    lengths = []
    length = _SHORTEST
    while length < most:
        lengths.append(length)
        length *= 2
    return (*lengths, most)
