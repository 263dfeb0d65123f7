"""A setting that stands in config.json twice, under names of several libraries or versions.

Which of the two a library takes is its own affair: where they disagree, another model would be
computed by another library. So that is refused, as is a setting under a foreign name alone where
leaving it out means a default. Not for what a setting means: `families.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scalingnote_jax.errors import bad_input

Values = dict[str, Any]

# The name that `transformers` reads for our families → names elsewhere.
_NAMES = {
    "vocab_size": ("n_vocab",),
    "hidden_size": ("n_embd", "n_embed", "d_model", "dim"),
    "intermediate_size": ("n_inner", "ffn_dim", "d_ff", "ffn_hidden_size"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("num_kv_heads", "n_kv_heads", "n_head_kv", "multi_query_group_num"),
    "head_dim": ("kv_channels", "attention_head_dim", "head_size", "d_kv"),
    "max_position_embeddings": ("n_positions", "n_ctx"),
    "rms_norm_eps": ("norm_eps", "rms_norm_epsilon", "layer_norm_epsilon"),
    "layer_norm_eps": ("layer_norm_epsilon",),
    "hidden_act": ("hidden_activation", "activation_function"),
    "sliding_window": ("attention_window", "window_size"),
    "rope_theta": ("rope_base", "rotary_base", "rotary_emb_base"),
}
# Those that have a default: under another name alone they would be lost without a word.
_OPTIONAL = ("num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta")
_DECODERS_ONLY = "rms_norm_eps"  # ModernBERT has a norm_eps of its own


def check_spellings(path: Path, config: Values) -> None:
    """Refuses two spellings of one setting that disagree.

    Args:
        path: of config.json, for the message.
        config: its content; of a model with images, the part of its language model is checked too.

    Raises:
        UserError: names both.
    """
    if inner := config.get("text_config"):
        for name in _NAMES.keys() & config.keys() & inner.keys():
            _same(path, name, config[name], f"text_config.{name}", inner[name])
        check_spellings(path, inner)
    encoder = config.get("model_type") in ("bert", "roberta", "xlm-roberta", "modernbert")
    for name, others in _NAMES.items():
        for other in others:
            if config.get(other) is None or (encoder and name == _DECODERS_ONLY):
                continue
            if config.get(name) is not None:
                _same(path, name, config[name], other, config[other])
            elif name in _OPTIONAL and not encoder and not _rope_has(config, name):
                given = f"{other} {config[other]!r}, and no {name}"
                raise bad_input(str(path), given, "the name in transformers", f"call it {name}")
    if config.get("multi_query") and config.get("num_key_value_heads") != 1:
        heads = config.get("num_key_value_heads")
        _same(path, "num_key_value_heads", heads, "multi_query, which means", 1)
    both, causal = config.get("use_bidirectional_attention"), config.get("is_causal")
    if both is not None and causal is not None and bool(both) == bool(causal):
        _same(path, "use_bidirectional_attention", both, "is_causal", causal, differ=True)


def _rope_has(config: Values, name: str) -> bool:
    return name == "rope_theta" and bool(config.get("rope_parameters"))


def check_rope_spellings(path: Path, config: Values) -> None:
    """Refuses settings of the rotation that disagree: `rope_parameters` of transformers 5 beside
    `rope_theta`, `rope_scaling`, `rope_local_base_freq` and the like of transformers 4.

    Raises:
        UserError: names both.
    """
    new: Values = config.get("rope_parameters") or {}
    full, local = new.get("full_attention", new), new.get("sliding_attention") or {}
    for rope in (config.get("rope_scaling") or {}, full, local):
        if None not in (kind := (rope.get("rope_type"), rope.get("type"))):
            _same(path, "rope_type", kind[0], "type", kind[1])
    if new and (old := config.get("rope_scaling")):
        _same(path, "rope_parameters", _plain(full), "rope_scaling", _plain(old))
    for name, rope in (
        ("rope_theta", full),
        ("global_rope_theta", full),
        ("rope_local_base_freq", local),
        ("local_rope_theta", local),
    ):
        if name in config and None not in (config[name], rope.get("rope_theta")):
            new_name = "rope_parameters.rope_theta"
            _same(path, name, float(config[name]), new_name, float(rope["rope_theta"]))


def _plain(rope: Values) -> Values:
    """The stretching alone, in the names of transformers 5."""
    named = {("rope_type" if k == "type" else k): v for k, v in rope.items() if v is not None}
    named.pop("rope_theta", None)
    return {} if named.get("rope_type") == "default" else named


def _same(path: Path, name: str, value: Any, other: str, also: Any, differ: bool = False) -> None:
    if differ or value != also:
        given = f"{name} {value!r} beside {other} {also!r}"
        raise bad_input(str(path), given, "one value for one setting", "take the wrong one out")
