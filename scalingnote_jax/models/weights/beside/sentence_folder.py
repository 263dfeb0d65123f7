"""A sentence-transformers folder: the modules behind the body, as its versions 2 to 6 save them.

Every module and every setting of one is read, or refused by name. Not for the body, which is as in
any other folder (`hf_folder.py`), or for prompts and lengths (`sentence_text.py`).
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scalingnote_jax.errors import bad_input
from scalingnote_jax.files.typed_json import PATH, Each, Rule
from scalingnote_jax.models.weights.beside.folder_settings import (
    BODY_ALONE,
    FolderSettings,
    Linear,
    linear,
)
from scalingnote_jax.models.weights.beside.sentence_text import text_settings
from scalingnote_jax.models.weights.hf_folder import SINGLE, open_tensor, tensor_names
from scalingnote_jax.models.weights.json_files import read_json

MODULES, ROUTER = "modules.json", "router_config.json"
_CLASSES = "sentence_transformers."
_POOLINGS = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_FLAGS = {  # of versions before 6, one for each kind of pooling
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_VECTOR = "sentence_embedding"
_PLACES = {"module_input_name": _VECTOR, "module_output_name": _VECTOR}


_FOLDER = Rule('a folder inside, or ""', lambda x: x == "" or PATH.test(x))
_LISTED = [{"path": _FOLDER, "type": str}]  # the form of modules.json
_ROUTER = {"types?": Each(str), "structure?": Each([PATH])}


class SentenceModule(NamedTuple):
    """One module.

    Attributes:
        kind: its class, such as "Pooling".
        folder: with its config.json.
    """

    kind: str
    folder: Path


def sentence_settings(body: Path) -> FolderSettings | None:
    """What the modules around a body say; None: it is in no such folder.

    Args:
        body: the folder of the Transformer: that of modules.json itself, or one inside of it.

    Raises:
        UserError: a module, or a setting of one, that a tower has not.
    """
    root, modules = _modules_around(body)
    if not modules:
        return None
    _check_order(root, modules)
    pooling, includes_prompt = _pooling(modules[1].folder / "config.json")
    layers = [_dense(module.folder) for module in modules if module.kind == "Dense"]
    for one, other in itertools.pairwise(layers):
        if one.size[1] != other.size[0]:
            given = f"{one.size[1]} numbers into a layer of {other.size[0]}"
            raise bad_input(str(other.path), given, "layers that follow each other", "fetch it")
    for module in modules:
        if module.kind == "Normalize":
            _check_settings(module.folder / "config.json", _PLACES, set())
    text = text_settings(root, body, normalised=modules[-1].kind == "Normalize")
    prompted = [prompt for prompt in text.prompts.values() if not prompt.startswith("{")]
    if prompted and not includes_prompt:
        given = f"include_prompt false, with the prompt {prompted[0]!r}"
        raise bad_input(str(modules[1].folder), given, "a pooling of the prompt too", BODY_ALONE)
    said = [f"{modules[1].folder.name} ({pooling})"]
    said += [f"{layer.path.parent.name} ({layer.size[0]} → {layer.size[1]})" for layer in layers]
    return FolderSettings(
        ", ".join(said + text.said),
        _POOLINGS[pooling],
        tuple(layers),
        text.prompts,
        text.max_tokens,
    )


def _modules_around(body: Path) -> tuple[Path, list[SentenceModule]]:
    """The folder that lists the modules, and those that the body is the first of."""
    if (body / MODULES).is_file():
        listed = read_json(body / MODULES, _LISTED)
        modules = [_module(body, m["path"], m["type"]) for m in listed]
        if modules and modules[0].kind == "Router":
            routes = _routes(body)
            names = " or ".join(str(route[0].folder) for route in routes if route)
            fix = f"name the folder of one tower: {names}"
            raise bad_input(str(body), "two towers behind a Router", "one tower", fix)
        if modules and modules[0].folder != body and modules[0].kind == "Transformer":
            given, fix = "a Transformer in a folder of its own", f"name {modules[0].folder}"
            raise bad_input(str(body), given, "the folder of the weights", fix)
        return body, modules
    above = body.parent
    if (above / MODULES).is_file():
        listed = read_json(above / MODULES, _LISTED)
        modules = [_module(above, m["path"], m["type"]) for m in listed]
        routes = _routes(above) if (above / ROUTER).is_file() else [modules]
        for route in routes:
            if route and route[0].folder == body:
                return above, route
    return body, []


def _routes(root: Path) -> list[list[SentenceModule]]:
    router = read_json(root / ROUTER, _ROUTER)
    types, routes = router.get("types", {}), router.get("structure", {})
    if lost := [p for paths in routes.values() for p in paths if p not in types]:
        raise bad_input(str(root / ROUTER), f"no type of {lost[0]!r}", "one", "fetch it again")
    return [[_module(root, path, types[path]) for path in paths] for paths in routes.values()]


def _module(root: Path, path: str, kind: str) -> SentenceModule:
    """A class of another package keeps its whole name, which no rule knows."""
    known = kind.startswith(_CLASSES)
    return SentenceModule(kind.rpartition(".")[2] if known else kind, root / path if path else root)


def _check_order(root: Path, modules: list[SentenceModule]) -> None:
    kinds = [module.kind for module in modules]
    layers = sum(kind == "Dense" for kind in kinds)
    wanted = ["Transformer", "Pooling", *["Dense"] * layers]
    if kinds not in (wanted, [*wanted, "Normalize"]):
        raise bad_input(
            str(root / MODULES),
            " → ".join(kinds),
            "Transformer → Pooling → Dense, if any → Normalize, if any",
            BODY_ALONE,
        )


def _pooling(path: Path) -> tuple[str, bool]:
    """The kind of pooling, and whether it is over the tokens of the prompt too."""
    config = read_json(path)
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for flag, mode in _FLAGS.items() if config.get(flag)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        known = f"one of {', '.join(_POOLINGS)}"
        raise bad_input(str(path), f"Pooling {' and '.join(modes)}", known, BODY_ALONE)
    widths = {"embedding_dimension", "word_embedding_dimension"}
    _check_settings(path, {}, {"pooling_mode", "include_prompt", *_FLAGS, *widths})
    return modes[0], config.get("include_prompt", True)


def _dense(folder: Path) -> Linear:
    """A layer without activation; a bias has to be zero."""
    path = folder / "config.json"
    config = read_json(path)
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    if str(activation).rpartition(".")[2] not in ("Identity", "None"):
        expected = "a linear layer (Identity)"
        raise bad_input(str(path), f"Dense with {activation}", expected, BODY_ALONE)
    read = {"in_features", "out_features", "bias", "activation_function"}
    _check_settings(path, {**_PLACES, "use_residual": False}, read)
    layer = linear(folder / SINGLE, "linear.weight", transposed=True)
    if layer.size != (config["in_features"], config["out_features"]):
        given, wanted = f"{layer.size[0]} → {layer.size[1]}", "what its config.json says"
        raise bad_input(str(folder / SINGLE), given, wanted, "fetch it again")
    others = set(tensor_names(folder / SINGLE)) - {"linear.weight", "linear.bias"}
    if others:
        given = f"Dense with {', '.join(sorted(others))}"
        raise bad_input(str(folder / SINGLE), given, "linear.weight", BODY_ALONE)
    if config.get("bias", True):
        with open_tensor("linear.bias", folder / SINGLE) as tensor:
            bias = np.asarray(tensor[:], np.float32)
        if bias.any():
            expected = "a layer without bias, or one of zeros"
            raise bad_input(str(path), "Dense with a bias", expected, BODY_ALONE)
    return layer


def _check_settings(path: Path, wanted: dict[str, Any], read: set[str]) -> None:
    """Refuses a setting that is unknown or not as `wanted`; those in `read` are looked at
    elsewhere, or follow from the weights. A module without the file has no settings.
    """
    for name, value in (read_json(path) if path.is_file() else {}).items():
        if name in read or value is None or value == wanted.get(name):
            continue
        expected = f"{wanted[name]!r}" if name in wanted else "no such setting"
        raise bad_input(str(path), f"{name} {value!r}", expected, BODY_ALONE)
