"""A folder that `SentenceTransformer(path)` loads: one tower, or two behind its `Router`.

Written without the library: it is JSON and safetensors. Classes and settings have the names that
its versions before 6 wrote and all later ones read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from scalingnote_jax.config import BertShape
from scalingnote_jax.errors import bad_input
from scalingnote_jax.export.exported_tower import ExportedTower
from scalingnote_jax.export.write_hf import write_body, write_json, write_tokenizer

_CLASS = "sentence_transformers.models."
_POOLING = {"mean": "mean_tokens", "last": "lasttoken", "cls": "cls_token"}
_ROUTES = {"query": "query", "doc": "document"}  # ours → the library's


def write_one(tower: ExportedTower, folder: Path, dtype: str) -> None:
    """A model of one tower: Transformer, Pooling, Dense if there is a projection, Normalize.

    Raises:
        UserError: what the tower does to a text, or its body, cannot be said there.
    """
    prompt = prefix(tower)
    modules = _write_modules(tower, folder, dtype, first="", number="{}_".format)
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": kind}
        for i, (path, kind) in enumerate(modules)
    ]
    write_json(folder / "modules.json", listed)
    route = _ROUTES[tower.side]
    _write_settings(folder, {route: prompt}, route if prompt else None)


def write_pair(query: ExportedTower, doc: ExportedTower, folder: Path, dtype: str) -> None:
    """A model whose `encode_query` takes one tower and whose `encode_document` the other.

    A call of `encode` that does not say which takes the query's: documents are encoded once, by who
    knows of both.

    Raises:
        UserError: as `write_one`.
    """
    prompts = {_ROUTES["query"]: prefix(query), _ROUTES["doc"]: prefix(doc)}
    types: dict[str, str] = {}
    structure: dict[str, list[str]] = {}
    for route, tower in zip(prompts, (query, doc), strict=True):
        modules = _write_modules(
            tower, folder, dtype, f"{route}_0_Transformer", f"{route}_{{}}_".format
        )
        types |= dict(modules)
        structure[route] = [path for path, _ in modules]
    routes = {"default_route": _ROUTES["query"], "allow_empty_key": True}
    write_json(
        folder / "router_config.json",
        {"types": types, "structure": structure, "parameters": routes},
    )
    listed = {"idx": 0, "name": "0", "path": "", "type": _CLASS + "Router"}
    write_json(folder / "modules.json", [listed])
    route = _ROUTES["query"]
    _write_settings(folder, prompts, route if prompts[route] else None)


def prefix(tower: ExportedTower) -> str:
    """The prompt up to its first field: what the library puts in front of a text. Where that is a
    title, title and text have to be one string before the library sees them.

    Raises:
        UserError: the tower's texts are more than that.
    """
    if not tower.cut_at_end:
        text = tower.text
        raise bad_input(
            f"the text of {tower.name}",
            f"prompt {text.prompt!r}, title_tokens {text.title_tokens}, "
            f"pooling {tower.cfg.pooling!r}",
            "a prompt that ends with {text} and is cut there: sentence-transformers can do no more",
            "export it with --format hf, onnx or stablehlo, which take tokens",
        )
    return tower.text.prompt.partition("{")[0]


def _write_modules(
    tower: ExportedTower, folder: Path, dtype: str, first: str, number: Callable[[int], str]
) -> list[tuple[str, str]]:
    """Writes the modules of a tower; returns their folders and classes."""
    write_body(tower, folder / first, dtype)
    write_tokenizer(tower, folder / first)
    settings: dict[str, Any] = {"max_seq_length": tower.text.max_tokens, "do_lower_case": False}
    if isinstance(
        tower.definition.shape, BertShape
    ):  # else it would warn of a pooler without weights
        settings["model_args"] = {"add_pooling_layer": False}
    write_json(folder / first / "sentence_bert_config.json", settings)
    modules = [(first, _CLASS + "Transformer")]

    def add(name: str, config: dict[str, Any], weight: np.ndarray | None = None) -> None:
        path = number(len(modules)) + name
        (folder / path).mkdir()
        write_json(folder / path / "config.json", config)
        if weight is not None:
            save_file({"linear.weight": weight}, folder / path / "model.safetensors")
        modules.append((path, _CLASS + name))

    width = tower.definition.shape.hidden_size
    kinds = {f"pooling_mode_{m}": m == _POOLING[tower.cfg.pooling] for m in _ALL_MODES}
    add("Pooling", {"word_embedding_dimension": width, **kinds, "include_prompt": True})
    if tower.projection is not None:
        dense = {
            "in_features": width,
            "out_features": tower.definition.dim,
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
        add("Dense", dense, np.ascontiguousarray(tower.projection.T))
    add("Normalize", {})
    return modules


_ALL_MODES = ("cls_token", "max_tokens", "mean_tokens", "lasttoken")


def _write_settings(folder: Path, prompts: dict[str, str], default: str | None) -> None:
    settings = {
        "model_type": "SentenceTransformer",
        "prompts": prompts,
        "default_prompt_name": default,
        "similarity_fn_name": "cosine",
    }
    write_json(folder / "config_sentence_transformers.json", settings)
