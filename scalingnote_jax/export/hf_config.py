"""From our shape to the config.json of a model type of `transformers`; the other way round is
`models/weights/families.py`.

What is written is read back by `families`, and has to give the same shape: so a shape that no model
type computes is refused by itself, and the two directions cannot drift apart.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from scalingnote_jax.config import BertShape, DecoderShape, ModernBertShape
from scalingnote_jax.config.towers import Shape
from scalingnote_jax.errors import bad_input
from scalingnote_jax.models.layers.views import local_layers
from scalingnote_jax.models.weights.families import shape_of_config

Values = dict[str, Any]

_CLASSES = {
    "bert": "BertModel",
    "gemma2": "Gemma2Model",
    "gemma3_text": "Gemma3TextModel",
    "llama": "LlamaModel",
    "mistral": "MistralModel",
    "modernbert": "ModernBertModel",
    "qwen2": "Qwen2Model",
    "qwen3": "Qwen3Model",
    "roberta": "RobertaModel",
}


def config_of(
    shape: Shape, max_tokens: int, pad_id: int, dtype: str, bidirectional: bool = False
) -> Values:
    """The content of config.json for a body of `shape`, in the form that every version of
    `transformers` from 4.50 on reads; if bidirectional, 5.24 (the oldest that was tried).

    Args:
        max_tokens: the longest text that the tower was trained with; more positions than that are
            promised only where the architecture has a number of its own.
        pad_id: the tokenizer's.
        dtype: of the weights, "float32" or "bfloat16".
        bidirectional: of the tower.

    Raises:
        UserError: no model type of `transformers` computes this shape.
    """
    kind = _kind(shape)
    if not shape.num_layers:
        fix = "export it with --format stablehlo"
        raise bad_input("the tower", "no layers", "a model of `transformers`", fix)
    if isinstance(shape, BertShape):
        if kind == "roberta" and pad_id != shape.unused_positions - 1:
            raise bad_input(
                "the tower's tokenizer",
                f"pad id {pad_id}",
                f"{shape.unused_positions - 1}: a roberta tells padding by the id, and numbers "
                "its positions from behind it",
                "export it with --format stablehlo",
            )
        config = _bert(shape)
    elif isinstance(shape, ModernBertShape):
        config = _modernbert(shape, max_tokens)
    else:
        config = _decoder(shape, kind, max_tokens)
        if bidirectional:
            config |= _both_sides(shape, kind)
    config = {
        "architectures": [_CLASSES[kind]],
        "model_type": kind,
        "pad_token_id": pad_id,
        "torch_dtype": dtype,
        **config,
    }
    _check(shape, kind, config)
    return config


def _kind(shape: Shape) -> str:
    if isinstance(shape, BertShape):
        return "roberta" if shape.unused_positions else "bert"
    if isinstance(shape, ModernBertShape):
        return "modernbert"
    if shape.gemma:
        return "gemma3_text" if shape.qk_norm else "gemma2"
    if shape.qkv_bias:
        return "qwen2"
    if shape.qk_norm:
        return "qwen3"
    return "mistral" if shape.window else "llama"


def _bert(shape: BertShape) -> Values:
    return {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "max_position_embeddings": shape.max_positions + shape.unused_positions,
        "type_vocab_size": shape.type_vocab_size,
        "layer_norm_eps": shape.norm_eps,
        "hidden_act": "gelu",
    }


def _modernbert(shape: ModernBertShape, max_tokens: int) -> Values:
    kinds = ["sliding_attention" if local else "full_attention" for local in local_layers(shape)]
    return {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "max_position_embeddings": max_tokens,
        "local_attention": 2 * shape.reach,
        "global_attn_every_n_layers": shape.global_every,
        "layer_types": kinds,
        "global_rope_theta": shape.rope_theta,
        "local_rope_theta": shape.local_rope_theta,
        "norm_eps": shape.norm_eps,
        "hidden_activation": "gelu",
        **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")),
    }


def _decoder(shape: DecoderShape, kind: str, max_tokens: int) -> Values:
    scaling = shape.rope_scaling
    stretched = round(scaling.old_positions * scaling.factor) if scaling else 0
    config = {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": max(max_tokens, stretched),
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "rope_scaling": _rope_scaling(shape),
        "hidden_act": "silu",
        "use_cache": False,  # it has no next token to predict
        "bos_token_id": None,
        "eos_token_id": None,
        "tie_word_embeddings": False,
    }
    if kind == "mistral":
        config["sliding_window"] = shape.window
    if shape.gemma:
        del config["hidden_act"]  # it has the setting under a name of its own
        config |= _gemma(shape, kind)
    return config


def _gemma(shape: DecoderShape, kind: str) -> Values:
    kinds = ["sliding_attention" if local else "full_attention" for local in local_layers(shape)]
    config: Values = {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": shape.score_dim or shape.head_dim,
        "sliding_window": shape.window or 4096,
        "layer_types": kinds,
    }
    if kind == "gemma3_text":
        config["rope_local_base_freq"] = shape.local_rope_theta or shape.rope_theta
    else:  # Gemma 3's attention reads no such field
        config["attn_logit_softcapping"] = shape.score_cap or None
    return config


def _both_sides(shape: DecoderShape, kind: str) -> Values:
    if kind == "gemma3_text":
        return {"use_bidirectional_attention": True}
    if any(local_layers(shape)):
        raise bad_input(
            "the tower",
            f"a {kind} whose tokens see {shape.window // 2} others to each side",
            "no window: transformers has it for gemma3_text alone",
            "export it with --format stablehlo",
        )
    return {"is_causal": False}


def _rope_scaling(shape: DecoderShape) -> Values | None:
    scaling = shape.rope_scaling
    if scaling is None:
        return None
    if scaling.kind == "linear":
        return {"rope_type": "linear", "factor": scaling.factor}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_turns,
        "high_freq_factor": scaling.high_turns,
        "original_max_position_embeddings": scaling.old_positions,
    }


def _check(shape: Shape, kind: str, config: Values) -> None:
    given, back = _canonical(shape), _canonical(shape_of_config(Path("config.json"), config))
    differing = [f.name for f in fields(given) if getattr(given, f.name) != getattr(back, f.name)]
    if differing:
        what = ", ".join(f"{name} {getattr(given, name)!r}" for name in differing)
        raise bad_input(
            "the tower's shape",
            f"{what} beside what makes it a {kind}",
            "a combination that a model type of transformers computes",
            "export it with --format stablehlo",
        )


def _canonical(shape: Shape) -> Shape:
    """The same for all shapes that compute the same."""
    if isinstance(shape, BertShape):
        return shape
    if isinstance(shape, ModernBertShape):
        return replace(shape, global_every=min(shape.global_every, shape.num_layers))
    local = local_layers(shape)
    unstretched = shape.rope_theta if shape.gemma and not shape.rope_scaling else 0.0
    return replace(
        shape,
        window=shape.window if any(local) else 0,
        global_every=0 if len(set(local)) == 1 else shape.global_every,
        local_rope_theta=shape.local_rope_theta or unstretched if any(local) else 0.0,
        score_dim=shape.score_dim or shape.head_dim,
    )
