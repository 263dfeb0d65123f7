"""From the config.json of a model to our shape: one entry per model type that is supported.

A setting that would compute something else than our modules do is refused, by name and value.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from scalingnote_jax.config import BertShape, DecoderShape, ModernBertShape, RopeScaling, replace
from scalingnote_jax.config.towers import Shape
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.layers.views import local_layers
from scalingnote_jax.models.weights.config_sizes import check_sizes
from scalingnote_jax.models.weights.spellings import check_rope_spellings, check_spellings

Values = dict[str, Any]


def shape_of_config(path: Path, config: Values) -> Shape:
    """The shape that `config`, the content of `path`, describes.

    Raises:
        UserError: a model type, a setting or an incomplete config that cannot be taken.
    """
    kind = str(config.get("model_type"))
    if kind not in FAMILIES:
        known = f"one of {sorted(FAMILIES)}"
        raise bad_input(str(path), f"model_type {kind!r}", known, "use another model")
    check_sizes(path, config)
    check_spellings(path, config)
    if quantised := config.get("quantization_config"):
        given = f"quantization_config {quantised.get('quant_method', '')!r}"
        raise bad_input(str(path), given, "weights as floats", "use the model that it was made of")
    try:
        return FAMILIES[kind](path, config)
    except KeyError as e:
        raise bad_input(
            str(path), f"no field {e}", f"a complete {kind} config", "fetch it again"
        ) from e


def is_bidirectional(config: Values) -> bool:
    """Whether the config is of a decoder whose tokens see later ones too."""
    # The first is EmbeddingGemma's; the second some embedding models of Qwen2's type have.
    # That they do not contradict each other is checked with the spellings.
    return bool(config.get("use_bidirectional_attention")) or config.get("is_causal") is False


def is_tied(config: Values) -> bool:
    """Whether a decoder's embedding table is its language model head too."""
    config = config.get("text_config") or config
    default = str(config.get("model_type")).startswith("gemma")  # those of transformers
    return bool(config.get("tie_word_embeddings", default))


def logit_cap(config: Values) -> float:
    """What a decoder's head bounds its logits by; 0: nothing."""
    config = config.get("text_config") or config
    return float(config.get("final_logit_softcapping") or 0)


def _require(path: Path, config: Values, wanted: Values) -> None:
    for field, value in wanted.items():
        given = config.get(field, value)
        if given != value and given is not None:
            raise bad_input(str(path), f"{field} {given!r}", repr(value), "use another model")


def _decoder(path: Path, config: Values, **special: Any) -> DecoderShape:
    """What all decoders have, and what is special to one of them."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    _require(path, config, {"partial_rotary_factor": 1.0})
    if not special.get("gemma"):  # whose windows are read from it
        _require(path, config, {"layer_types": ["full_attention"] * config["num_hidden_layers"]})
    if special.get("window"):
        # How far to each side would it reach? Libraries differ; only Gemma 3's other field says it.
        _require(path, config, {"is_causal": True})
    return DecoderShape(
        **{
            "vocab_size": config["vocab_size"],
            "hidden_size": hidden,
            "intermediate_size": config["intermediate_size"],
            "num_layers": config["num_hidden_layers"],
            "num_heads": heads,
            "num_kv_heads": config.get("num_key_value_heads") or heads,
            "head_dim": config.get("head_dim") or hidden // heads,
            "norm_eps": float(config.get("rms_norm_eps", 1e-6)),
            **_rope(path, config),
            **special,
        }
    )


def _rope(path: Path, config: Values) -> Values:
    """Base and stretching of the rotation; Gemma 3 has one pair for each kind of layer."""
    # transformers 5 writes rope_parameters; 4 wrote rope_theta, and rope_scaling if there is any.
    check_rope_spellings(path, config)
    rope: Values = config.get("rope_parameters") or config.get("rope_scaling") or {}
    full: Values = rope.get("full_attention", rope)
    _require(path, full, {"partial_rotary_factor": 1.0})
    theta = full.get("rope_theta") or config.get("rope_theta") or 10_000.0
    found = {"rope_theta": float(theta), "rope_scaling": _scaling(path, full)}
    if local := rope.get("sliding_attention"):
        _require(path, {"rope_type": local.get("rope_type")}, {"rope_type": "default"})
        found["local_rope_theta"] = float(local["rope_theta"])
    return found


def _scaling(path: Path, rope: Values) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type")) or "default"
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", float(rope["factor"]))
    if kind != "llama3":
        known = "one of ['default', 'linear', 'llama3']"
        raise bad_input(str(path), f"rope_type {kind!r}", known, "use another model")
    return RopeScaling(
        kind="llama3",
        factor=float(rope["factor"]),
        low_turns=float(rope["low_freq_factor"]),
        high_turns=float(rope["high_freq_factor"]),
        old_positions=rope["original_max_position_embeddings"],
    )


def _windows(path: Path, config: Values, every: int) -> Values:
    """The window, and which layers have none; `every` where the config does not list its layers."""
    kinds = config.get("layer_types")
    if kinds:
        every = 1 + kinds.index("full_attention") if "full_attention" in kinds else 0
    shape = DecoderShape(
        num_layers=config["num_hidden_layers"], window=config["sliding_window"], global_every=every
    )
    wanted = ["sliding_attention" if local else "full_attention" for local in local_layers(shape)]
    _require(path, {"layer_types": kinds}, {"layer_types": wanted})
    return {"window": shape.window, "global_every": every}


_SILU = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
_GEMMA = {"hidden_activation": "gelu_pytorch_tanh", "attention_bias": False}
# Of models that may have the field, though what `transformers` makes of it is another thing.
_CAUSAL = {"use_bidirectional_attention": False}


def _llama(path: Path, config: Values) -> DecoderShape:
    _require(path, config, _SILU)
    return _decoder(path, config)


def _mistral(path: Path, config: Values) -> DecoderShape:
    _require(path, config, _SILU)
    return _decoder(path, config, window=config.get("sliding_window") or 0)


def _qwen2(path: Path, config: Values) -> DecoderShape:
    _require(path, config, {"hidden_act": "silu", "use_sliding_window": False})
    return _decoder(path, config, qkv_bias=True)


def _qwen3(path: Path, config: Values) -> DecoderShape:
    _require(path, config, _SILU | {"use_sliding_window": False})
    return _decoder(path, config, qk_norm=True)


def _gemma2(path: Path, config: Values) -> DecoderShape:
    _require(path, config, _GEMMA | _CAUSAL)
    return _decoder(
        path,
        config,
        gemma=True,
        score_dim=config["query_pre_attn_scalar"],
        score_cap=float(config.get("attn_logit_softcapping") or 0),
        **_windows(path, config, every=2),
    )


def _gemma3(path: Path, config: Values) -> DecoderShape:
    _require(path, config, _GEMMA)
    if "rope_parameters" not in config:  # as transformers 4 wrote it
        full = {"rope_theta": config.get("rope_theta", 1e6), **(config.get("rope_scaling") or {})}
        local = {"rope_theta": config.get("rope_local_base_freq", 1e4)}
        both = {"full_attention": full, "sliding_attention": local}
        config = config | {"rope_parameters": both}
    return _decoder(
        path,
        config,
        gemma=True,
        qk_norm=True,
        score_dim=config["query_pre_attn_scalar"],
        **_windows(path, config, every=config.get("sliding_window_pattern", 6)),
    )


def _gemma3_with_images(path: Path, config: Values) -> DecoderShape:
    """The language model of Gemma 3 from 4B on; the hub's configs leave out what is the default."""
    default = {
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
    }
    _require(path, config["text_config"], _CAUSAL)
    return _gemma3(path, default | config["text_config"])


def _modernbert(path: Path, config: Values) -> ModernBertShape:
    biases = dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias"), False)
    _require(path, config, biases | {"hidden_activation": "gelu", "rope_scaling": None})
    return ModernBertShape(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        reach=config["local_attention"] // 2,
        global_every=_global_every(path, config),
        rope_theta=_theta(path, config, "full_attention", "global_rope_theta"),
        local_rope_theta=_theta(path, config, "sliding_attention", "local_rope_theta"),
        norm_eps=float(config.get("norm_eps", 1e-5)),
    )


def _global_every(path: Path, config: Values) -> int:
    """Transformers 5 lists a ModernBERT's layers, 4 had the number."""
    kinds = config.get("layer_types")
    if not kinds:
        return config["global_attn_every_n_layers"]
    later = kinds[1:]
    every = 1 + later.index("full_attention") if "full_attention" in later else len(kinds)
    shape = ModernBertShape(num_layers=config["num_hidden_layers"], global_every=every)
    wanted = ["sliding_attention" if local else "full_attention" for local in local_layers(shape)]
    _require(path, config, {"layer_types": wanted})
    return every


def _theta(path: Path, config: Values, kind: str, before: str) -> float:
    """Base of the rotation in the layers of a kind; `before` is its name in transformers 4."""
    if kind in (rope := config.get("rope_parameters") or {}):
        _require(path, rope[kind], {"rope_type": "default"})
        return float(rope[kind]["rope_theta"])
    return float(config[before] or config["global_rope_theta"])


def _roberta(path: Path, config: Values) -> BertShape:
    # Its positions count from behind the number of the padding token.
    unused = config.get("pad_token_id", 1) + 1
    positions = config["max_position_embeddings"] - unused
    shape = _bert(path, config | {"max_position_embeddings": positions})
    return replace(shape, unused_positions=unused)


def _bert(path: Path, config: Values) -> BertShape:
    plain = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
    _require(path, config, plain)
    return BertShape(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        max_positions=config["max_position_embeddings"],
        type_vocab_size=config.get("type_vocab_size", 2),
        norm_eps=float(config.get("layer_norm_eps", 1e-12)),
    )


FAMILIES: dict[str, Callable[[Path, Values], Shape]] = {
    "bert": _bert,
    "gemma2": _gemma2,
    "gemma3": _gemma3_with_images,
    "gemma3_text": _gemma3,
    "llama": _llama,
    "mistral": _mistral,
    "modernbert": _modernbert,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "roberta": _roberta,
    "xlm-roberta": _roberta,
}
