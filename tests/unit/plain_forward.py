"""The two architectures in plain numpy: one text, one head, one position at a time, no tricks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from scalingnote_jax.config import BertShape, DecoderShape


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def numpy_decoder(s: DecoderShape, body: dict[str, Any], tokens: np.ndarray) -> np.ndarray:
    """One text without padding, one head at a time. [L] → [L, E]."""
    layers = body["layers"]
    half = s.head_dim // 2

    def norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + s.norm_eps) * scale

    def turn(x: np.ndarray) -> np.ndarray:
        out = np.empty_like(x)
        for position in range(len(x)):
            for i in range(half):
                angle = position * s.rope_theta ** (-2 * i / s.head_dim)
                a, b = x[position, i], x[position, i + half]
                out[position, i] = a * math.cos(angle) - b * math.sin(angle)
                out[position, i + half] = b * math.cos(angle) + a * math.sin(angle)
        return out

    x = body["embedding"]["table"][tokens].astype(np.float64)
    for n in range(s.num_layers):
        w = {name: value[n].astype(np.float64) for name, value in layers.items()}
        h = norm(x, w["attention_norm"])
        for head in range(s.num_heads):
            group = head // (s.num_heads // s.num_kv_heads)
            q, k = turn(h @ w["q"][:, head]), turn(h @ w["k"][:, group])
            v = h @ w["v"][:, group]
            for i in range(len(tokens)):
                p = softmax(q[i] @ k[: i + 1].T / math.sqrt(s.head_dim))
                x[i] += (p @ v[: i + 1]) @ w["o"][head]
        h = norm(x, w["mlp_norm"])
        gate = h @ w["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["up"])) @ w["down"]
    return norm(x, body["final_norm"])


def numpy_bert(s: BertShape, body: dict[str, Any], tokens: np.ndarray) -> np.ndarray:
    """One text without padding, one head at a time. [L] → [L, E]."""
    embedding = body["embedding"]

    def norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(variance + s.norm_eps) * scale + bias

    x = embedding["table"][tokens] + embedding["positions"][: len(tokens)] + embedding["types"][0]
    x = norm(x.astype(np.float64), embedding["norm"], embedding["norm_bias"])
    for n in range(s.num_layers):
        w = {name: value[n].astype(np.float64) for name, value in body["layers"].items()}
        attended = np.zeros_like(x)
        for head in range(s.num_heads):
            q, k, v = (x @ w[m][:, head] + w[f"{m}_bias"][head] for m in "qkv")
            for i in range(len(tokens)):
                p = softmax(q[i] @ k.T / math.sqrt(s.hidden_size // s.num_heads))
                attended[i] += (p @ v) @ w["o"][head]
        x = norm(x + attended + w["o_bias"], w["attention_norm"], w["attention_norm_bias"])
        h = x @ w["up"] + w["up_bias"]
        h = h * 0.5 * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
        x = norm(x + h @ w["down"] + w["down_bias"], w["mlp_norm"], w["mlp_norm_bias"])
    return x
