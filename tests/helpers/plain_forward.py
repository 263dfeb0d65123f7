"""The architectures in plain numpy: one text, one head, one position at a time, no tricks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from scalingnote_jax.config import BertShape, DecoderShape, ModernBertShape


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def frequency(s: DecoderShape, i: int, local: bool) -> float:
    """Radians per position of the i-th pair of a head's dimensions."""
    if local and s.local_rope_theta:
        return s.local_rope_theta ** (-2 * i / s.head_dim)
    plain, scaling = s.rope_theta ** (-2 * i / s.head_dim), s.rope_scaling
    if scaling is None:
        return plain
    slow = plain / scaling.factor
    if scaling.kind == "linear":
        return slow
    turns = scaling.old_positions * plain / (2 * math.pi)
    if turns > scaling.high_turns:
        return plain
    if turns < scaling.low_turns:
        return slow
    share = (turns - scaling.low_turns) / (scaling.high_turns - scaling.low_turns)
    return share * plain + (1 - share) * slow


def numpy_decoder(
    s: DecoderShape, body: dict[str, Any], tokens: np.ndarray, causal: bool = True
) -> np.ndarray:
    """One text without padding, one head at a time. [L] → [L, E]."""
    half = s.head_dim // 2

    def norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + s.norm_eps) * scale

    def turn(x: np.ndarray, local: bool) -> np.ndarray:
        out = np.empty_like(x)
        for position in range(len(x)):
            for i in range(half):
                angle = position * frequency(s, i, local)
                a, b = x[position, i], x[position, i + half]
                out[position, i] = a * math.cos(angle) - b * math.sin(angle)
                out[position, i + half] = b * math.cos(angle) + a * math.sin(angle)
        return out

    def attention(h: np.ndarray, w: dict[str, np.ndarray], local: bool) -> np.ndarray:
        out = np.zeros_like(h)
        for head in range(s.num_heads):
            group = head // (s.num_heads // s.num_kv_heads)
            q, k, v = h @ w["q"][:, head], h @ w["k"][:, group], h @ w["v"][:, group]
            if s.qkv_bias:
                q, k, v = q + w["q_bias"][head], k + w["k_bias"][group], v + w["v_bias"][group]
            if s.qk_norm:
                q, k = norm(q, w["q_norm"]), norm(k, w["k_norm"])
            q, k = turn(q, local), turn(k, local)
            for i in range(len(h)):
                first, last = 0, i + 1 if causal else len(h)
                if local:
                    first = max(0, i - s.window + 1 if causal else i - s.window // 2)
                    last = min(last, i + s.window // 2 + 1)
                scores = k[first:last] @ q[i] / math.sqrt(s.score_dim or s.head_dim)
                if s.score_cap:
                    scores = s.score_cap * np.tanh(scores / s.score_cap)
                out[i] += (softmax(scores) @ v[first:last]) @ w["o"][head]
        return out

    def feed_forward(h: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
        gate = h @ w["gate"]
        if s.gemma:
            cubic = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
            gate = 0.5 * gate * (1 + np.tanh(cubic))
        else:
            gate = gate / (1 + np.exp(-gate))
        return (gate * (h @ w["up"])) @ w["down"]

    x = body["embedding"]["table"][tokens].astype(np.float64)
    x = x * math.sqrt(s.hidden_size) if s.gemma else x
    for n in range(s.num_layers):
        w = {name: value[n].astype(np.float64) for name, value in body["layers"].items()}
        everything = s.global_every and (n + 1) % s.global_every == 0
        out = attention(norm(x, w["attention_norm"]), w, bool(s.window) and not everything)
        x = x + (norm(out, w["attention_out_norm"]) if s.gemma else out)
        out = feed_forward(norm(x, w["mlp_norm"]), w)
        x = x + (norm(out, w["mlp_out_norm"]) if s.gemma else out)
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


def numpy_modernbert(s: ModernBertShape, body: dict[str, Any], tokens: np.ndarray) -> np.ndarray:
    """One text without padding, one head at a time. [L] → [L, E]."""
    size = s.hidden_size // s.num_heads

    def norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return (
            (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + s.norm_eps) * scale
        )

    def turn(x: np.ndarray, theta: float) -> np.ndarray:
        """Each pair of dimensions as a complex number."""
        angles = np.arange(len(x))[:, None] * theta ** (-2 * np.arange(size // 2) / size)
        turned = (x[:, : size // 2] + 1j * x[:, size // 2 :]) * np.exp(1j * angles)
        return np.concatenate([turned.real, turned.imag], axis=1)

    embedding = body["embedding"]
    x = norm(embedding["table"][tokens].astype(np.float64), embedding["norm"])
    for n in range(s.num_layers):
        w = {name: value[n].astype(np.float64) for name, value in body["layers"].items()}
        reach = len(x) if n % s.global_every == 0 else s.reach
        theta = s.rope_theta if n % s.global_every == 0 else s.local_rope_theta
        h = norm(x, w["attention_norm"]) if n else x
        attended = np.zeros_like(x)
        for head in range(s.num_heads):
            q, k, v = (h @ w[m][:, head] for m in "qkv")
            q, k = turn(q, theta), turn(k, theta)
            for i in range(len(x)):
                seen = slice(max(0, i - reach), i + reach + 1)
                attended[i] += softmax(k[seen] @ q[i] / math.sqrt(size)) @ v[seen] @ w["o"][head]
        x = x + attended
        h = norm(x, w["mlp_norm"])
        gate = h @ w["gate"]
        gate = gate * 0.5 * (1 + np.vectorize(math.erf)(gate / math.sqrt(2)))
        x = x + (gate * (h @ w["up"])) @ w["down"]
    return norm(x, body["final_norm"])
