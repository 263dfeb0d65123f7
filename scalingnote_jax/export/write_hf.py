"""The body of a tower as `transformers` saves a model: config.json, safetensors, the tokenizer.

What is behind the body (pooling, projection, L2 norm) has no place in such a folder; the projection
lies beside it in a file of its own. Reading such folders is `models/weights/hf_folder.py`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from scalingnote_jax.errors import bad_input
from scalingnote_jax.export.exported_tower import ExportedTower
from scalingnote_jax.export.hf_config import config_of
from scalingnote_jax.models.weights.hf_folder import INDEX, PROJECTION, SINGLE
from scalingnote_jax.models.weights.layouts import layout_of

_SHARD_BYTES = 4 * 2**30  # what one file holds at most, and this process copies at a time
# Words, digits, white space, signs, other scripts, characters that can be written in two ways
_PROBES = (
    "how do I sort a list of words by length",
    "It's 12,345.67 of them – isn't it?",
    "  two spaces\n\n\tand a tab ",
    "def area(r): return 3.14159 * r ** 2  # m²",
    "naïve café, nai\u0308ve cafe\u0301, ﬁn, ＡＢＣ",
    "北京大学 Москва القاهرة 🙂👍🏽",
)
_FORMAT = {"format": "pt"}  # what transformers asks for: tensors laid out as PyTorch has them


def write_body(tower: ExportedTower, folder: Path, dtype: str) -> None:
    """What `AutoModel` reads: config.json and weights.

    Args:
        dtype: of the weights, "float32" or "bfloat16".

    Raises:
        UserError: `transformers` has no model that computes this body.
    """
    config = config_of(
        tower.definition.shape,
        tower.text.max_tokens,
        tower.tokenizer.pad_id,
        dtype,
        bidirectional=tower.cfg.bidirectional,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    _write_tensors(folder, _tensors(tower, dtype), _SHARD_BYTES)


def write_hf(tower: ExportedTower, folder: Path, dtype: str) -> None:
    """Body, tokenizer, and the projection if there is one; raises as these do."""
    write_body(tower, folder, dtype)
    write_tokenizer(tower, folder)
    if tower.projection is not None:
        save_file({"projection": tower.projection}, folder / PROJECTION)


def write_tokenizer(tower: ExportedTower, folder: Path) -> None:
    """tokenizer.json, and what makes `AutoTokenizer` cut and pad as the tower was trained. It looks
    for config.json beside them, which has to be there.

    Raises:
        UserError: `AutoTokenizer` makes other ids: for some model types it does not take the
            tokenizer that is in the folder, but builds what it holds to be the right one.
    """
    tower.tokenizer.save(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {
        "model_max_length": tower.text.max_tokens,
        "padding_side": "right",
        "truncation_side": "right",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    write_json(path, config)
    from transformers import AutoTokenizer  # slow to import, hence only where it is needed

    found = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    ids = found(list(_PROBES), truncation=True)["input_ids"]
    if ids != tower.tokenizer.encode(list(_PROBES), tower.text.max_tokens):
        raise bad_input(
            f"{tower.name} tower",
            f"AutoTokenizer reads its tokenizer.json as a {type(found).__name__}, with other ids",
            "the ids that it was trained with",
            "export it with --format onnx or stablehlo, which take ids",
        )


def write_json(path: Path, values: Any) -> None:
    """Values as indented JSON."""
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _tensors(tower: ExportedTower, dtype: str) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of the body under the names of `transformers`, one at a time."""
    kind = jnp.dtype(dtype)
    layout = layout_of(tower.definition.shape).stored.items()
    # What shares a tensor stands together in a layout, in the order of its parts.
    for name, group in itertools.groupby(layout, lambda item: item[1].name):
        parts = [(stored, np.asarray(tower.params[f"body/{path}"])) for path, stored in group]
        stored, weight = parts[0]
        for i in range(stored.first, len(weight) if stored.stacked else 1):
            ours = [s.revert(w[i] if s.stacked else w).astype(kind) for s, w in parts]
            yield name.format(i=i), np.ascontiguousarray(np.concatenate(ours))


def _write_tensors(
    folder: Path, tensors: Iterator[tuple[str, np.ndarray]], shard_bytes: int
) -> None:
    """One file, or as many as it takes with an index beside them."""
    shards: list[list[str]] = []
    waiting: dict[str, np.ndarray] = {}

    def write() -> None:
        save_file(waiting, folder / f"{len(shards)}.partial", metadata=_FORMAT)
        shards.append(list(waiting))
        waiting.clear()

    total = size = 0
    for name, tensor in tensors:
        if waiting and size + tensor.nbytes > shard_bytes:
            write()
            size = 0
        waiting[name] = tensor
        size, total = size + tensor.nbytes, total + tensor.nbytes
    write()
    count = len(shards)
    if count == 1:
        (folder / "0.partial").rename(folder / SINGLE)
        return
    places: dict[str, str] = {}
    for i, names in enumerate(shards):
        file = f"model-{i + 1:05}-of-{count:05}.safetensors"
        (folder / f"{i}.partial").rename(folder / file)
        places |= dict.fromkeys(names, file)
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
