"""What a text goes through in a sentence-transformers folder: prompts, lengths, and the settings of
the Transformer module. Every setting is read, or refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalingnote_jax.config import BertShape
from scalingnote_jax.config.forms.prompt import FIELD
from scalingnote_jax.config.stages import Side
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.weights.beside.folder_settings import BODY_ALONE
from scalingnote_jax.models.weights.families import shape_of_config
from scalingnote_jax.models.weights.json_files import read_json
from scalingnote_jax.text.tokenizer import SENTENCE_CONFIGS

_OF_ALL = "config_sentence_transformers.json"
# Whose prompt `encode_query` and `encode_document` take, in this order, before the default one.
_PROMPTS: dict[Side, tuple[str, ...]] = {
    "query": ("query",),
    "doc": ("document", "passage", "corpus"),
}
_LENGTHS: dict[Side, str] = {"query": "query_length", "doc": "document_length"}
# Settings of the Transformer module that change no vector, or are read elsewhere
_NEUTRAL = {"max_seq_length", "do_lower_case", "unpad_inputs", "cache_dir", *_LENGTHS.values()}
_MODEL = ("add_pooling_layer", "torch_dtype", "dtype", "attn_implementation", "device_map")
_NO_CHANGE: dict[str, tuple[str, ...]] = {
    "model_args": _MODEL,
    "model_kwargs": _MODEL,
    "tokenizer_args": ("padding_side", "use_fast"),
    "processor_kwargs": ("padding_side", "use_fast"),
    "config_args": ("use_cache",),
    "config_kwargs": ("use_cache",),
}
_WANTED: dict[str, Any] = {
    "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
    "processing_kwargs": {},
}
_TEXT = {"method": "forward", "method_output_name": "last_hidden_state"}


@dataclass
class TextSettings:
    """As in `FolderSettings`; `said` in parts."""

    said: list[str] = field(default_factory=list)
    prompts: dict[Side, str] = field(default_factory=dict)
    max_tokens: dict[Side, int] = field(default_factory=dict)


def text_settings(root: Path, body: Path, normalised: bool) -> TextSettings:
    """
    Args:
        root: the folder with modules.json.
        body: that of the Transformer.
        normalised: whether its vectors have length one.

    Raises:
        UserError: a setting that a tower has not.
    """
    found = TextSettings()
    path = root / _OF_ALL
    _prompts(path, read_json(path) if path.is_file() else {}, normalised, found)
    name = next((n for n in SENTENCE_CONFIGS if (body / n).is_file()), "")
    settings = read_json(body / name) if name else {}
    if name:
        _check_transformer(body / name, settings)
    if settings.get("do_lower_case"):
        found.said.append("lower-casing")
    _check_cut(body)
    for side, length in _LENGTHS.items():
        most = settings.get(length) or settings.get("max_seq_length") or _most_tokens(body)
        if most:
            found.max_tokens[side] = most
    if lengths := sorted(set(found.max_tokens.values())):
        found.said.append(f"at most {' and '.join(map(str, lengths))} tokens")
    return found


def _prompts(path: Path, settings: dict[str, Any], normalised: bool, found: TextSettings) -> None:
    known = {"__version__", "prompts", "default_prompt_name", "similarity_fn_name", "model_type"}
    for name, value in settings.items():
        if name not in known and value is not None:
            raise bad_input(str(path), f"{name} {value!r}", "no such setting", BODY_ALONE)
    kind = settings.get("model_type") or "SentenceTransformer"
    similarity = settings.get("similarity_fn_name") or "cosine"
    # Of unit vectors, a tower's, the dot product is the cosine, and distance gives the same order
    same = ("cosine", "dot", "euclidean") if normalised else ("cosine",)
    for name, value, allowed in (
        ("model_type", kind, ("SentenceTransformer",)),
        ("similarity_fn_name", similarity, same),
    ):
        if value not in allowed:
            given = f"{name} {value!r}" + ("" if normalised else " without Normalize")
            raise bad_input(str(path), given, " or ".join(allowed), BODY_ALONE)
    prompts: dict[str, str] = settings.get("prompts") or {}
    default = settings.get("default_prompt_name")
    if default is not None and default not in prompts:
        given = f"default_prompt_name {default!r}"
        raise bad_input(str(path), given, f"one of {', '.join(prompts) or 'none'}", BODY_ALONE)
    for side, names in _PROMPTS.items():
        chosen = next((n for n in names if n in prompts), default)
        if chosen is None:
            continue
        words = prompts[chosen]
        if FIELD.search(words):
            expected = "words alone: {title} and {text} are filled in"
            raise bad_input(str(path), f"prompt {words!r}", expected, BODY_ALONE)
        found.prompts[side] = words + "{text}"
        if words:
            found.said.append(f"{side} prompt {words!r}")


def _check_transformer(path: Path, settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        if name in _NEUTRAL or not value or value == _WANTED.get(name):
            continue
        inner = value if isinstance(value, dict) else {}
        if inner and not set(inner) - set(_NO_CHANGE.get(name, ())):
            continue
        if name == "modality_config" and inner.get("text") == _TEXT:
            continue  # other kinds of input are of no use to a tower
        expected = f"{_WANTED[name]!r}" if name in _WANTED else "nothing that changes a vector"
        raise bad_input(str(path), f"{name} {value!r}", expected, BODY_ALONE)


def _tokenizer_config(body: Path) -> dict[str, Any]:
    path = body / "tokenizer_config.json"
    return read_json(path) if path.is_file() else {}


def _check_cut(body: Path) -> None:
    """A tower cuts a text at its end."""
    if (side := _tokenizer_config(body).get("truncation_side", "right")) != "right":
        path = str(body / "tokenizer_config.json")
        raise bad_input(path, f"truncation_side {side!r}", "'right'", BODY_ALONE)


def _most_tokens(body: Path) -> int:
    """Of a Transformer that sets no length: what its tokenizer and its positions hold; 0: not
    known.
    """
    tokenizer = _tokenizer_config(body)
    config = read_json(body / "config.json")
    positions = (config.get("text_config") or config).get("max_position_embeddings")
    shape = shape_of_config(body / "config.json", config)
    if isinstance(shape, BertShape):
        positions = shape.max_positions
    lengths = [tokenizer.get("model_max_length"), positions]
    return int(min((n for n in lengths if n), default=0))
