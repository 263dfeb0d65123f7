"""The model card: README.md of an exported folder, from what the workdir knows about its towers.

What nobody told us, such as the licence of the weights that training began with, is said to be
unknown.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalingnote_jax.config import Config
from scalingnote_jax.config.values import field_values
from scalingnote_jax.export.exported_tower import ExportedTower
from scalingnote_jax.export.snippets import example_code

_LIBRARY = {
    "sentence-transformers": "sentence-transformers",
    "hf": "transformers",
    "stablehlo": "jax",
    "onnx": "onnx",
}
_FOLDER = re.compile(r"((?:[\w.-]+[=:])*)(/.*)")  # perhaps behind a name, as in data.mixture


@dataclass(frozen=True)
class Origin:
    """What the card says of the run that trained the towers.

    Attributes:
        name: of its config.
        settings: every field of its config, "train.batch_size" → value.
        matryoshka: lengths that vectors may be cut to; (): D alone.
    """

    name: str
    settings: Mapping[str, Any]
    matryoshka: tuple[int, ...] = ()


def write_card(
    folder: Path,
    kind: str,
    towers: list[ExportedTower],
    origin: Origin,
    metrics: dict[str, Any] | None,
) -> None:
    """Writes README.md.

    Args:
        kind: the format.
        towers: those in the folder.
        metrics: the content of eval/metrics.json; None if nothing was evaluated.
    """
    parts = [
        _front_matter(kind, towers),
        f"# {origin.name}: {' and '.join(tower.name for tower in towers)}",
        "Trained with [scalingnote_jax](https://arxiv.org/abs/2411.15766) (ScalingNote): a dual "
        "tower of language models gives the document vectors, and a small student learns the "
        "vectors of its query tower.",
        "## Use",
        f"```python\n{example_code(kind, towers)}\n```",
        "## What a text goes through",
        _contract(kind, towers, origin.matryoshka),
        "## Metrics",
        _metrics(metrics),
        "## Where it comes from",
        _origin(towers),
        "Settings that are not the default, as words for the command line:",
        _settings(origin),
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _front_matter(kind: str, towers: list[ExportedTower]) -> str:
    bases = sorted({tower.cfg.weights for tower in towers if tower.cfg.weights.startswith("hf:")})
    base = [f"- {ref.removeprefix('hf:').partition('@')[0]}" for ref in bases]
    lines = [
        "---",
        f"library_name: {_LIBRARY[kind]}",
        "pipeline_tag: sentence-similarity",
        "license: unknown",
        "tags:",
        "- feature-extraction",
        *([f"- {_LIBRARY[kind]}"] if kind == "sentence-transformers" else []),
        *(["base_model:", *base] if base else []),
        "---",
    ]
    return "\n".join(lines)


def _contract(kind: str, towers: list[ExportedTower], lengths: tuple[int, ...]) -> str:
    rows = [
        f"| {tower.name} | `{_quoted(tower.text.prompt)}` | {tower.text.max_tokens} | "
        f"{tower.tokenizer.num_special} | {tower.cfg.pooling} | "
        f"{tower.cfg.projection or 'none'} | {tower.definition.dim} |"
        for tower in towers
    ]
    head = "| tower | prompt | tokens at most | special ones | pooling | projection | D |"
    notes = ["Vectors have length one: score them with the dot product."]
    notes.append("A text without any token has no vector; leave such texts out.")
    if any("{title}" in tower.text.prompt for tower in towers):
        notes.append("Title and text are put together before the tokenizer, as in the code above.")
    if not all(tower.cut_at_end for tower in towers):
        notes.append(
            "In training a text that is too long was cut inside of the title and the text, so that "
            "the words of the prompt behind them stay. The code above cuts at the end: shorten the "
            "text itself first."
        )
    if any(tower.cfg.dtype != "float32" for tower in towers):
        notes.append("Products were taken in bfloat16 in training, and are in float32 here.")
    if kind in ("hf", "sentence-transformers") and any(tower.cfg.bidirectional for tower in towers):
        notes.append(
            "Tokens see later ones too, which `transformers` reads from config.json; version 4 "
            "does not for every model type, and gives other vectors then: use 5.24 or later."
        )
    lengths = tuple(n for n in lengths if n < min(tower.definition.dim for tower in towers))
    if lengths:
        notes.append(
            f"Trained so that the first {', '.join(map(str, lengths))} components may be used "
            "alone, scaled to length one again."
        )
    return "\n".join([head, "|" + "---|" * 7, *rows, "", " ".join(notes)])


def _quoted(prompt: str) -> str:
    """In a cell of a table."""
    return json.dumps(prompt, ensure_ascii=False).replace("|", "\\|")


def _metrics(metrics: dict[str, Any] | None) -> str:
    if metrics is None:
        return "Not evaluated when this was written (`scalingnote eval`)."
    names = list(metrics["rows"][0]["metrics"])
    lines = [
        f"On {metrics['dataset']}:",
        "",
        "| query tower | search | queries | " + " | ".join(names) + " |",
        "|" + "---|" * (3 + len(names)),
    ]
    for row in metrics["rows"]:
        values = " | ".join(f"{row['metrics'][name]:.3f}" for name in names)
        lines.append(f"| {row['system']} | {row['search']} | {row['queries']} | {values} |")
    kept = ", ".join(f"{name} {value:.1%}" for name, value in metrics["retention"].items())
    return "\n".join([*lines, *(["", f"Student / teacher: {kept}."] if kept else [])])


def _origin(towers: list[ExportedTower]) -> str:
    lines = []
    for tower in towers:
        cfg, layers = tower.cfg, tower.definition.shape.num_layers
        lines.append(
            f"- {tower.name}: started from `{_shown(cfg.weights)}`; layers: {layers}; weights: "
            f"{tower.definition.num_params():,}"
        )
    note = (
        "The licence of the weights that training started from, and of the texts that it used, is "
        "not known to the program that wrote this; find out before you pass this folder on."
    )
    return "\n".join([*lines, "", note])


def _settings(origin: Origin) -> str:
    """Words for the command line, one a line and quoted for a shell; what has no such word, as a
    comment.
    """
    default = field_values(Config(origin.name))
    changed = {k: v for k, v in origin.settings.items() if v != default.get(k)}
    lines = [_word(name, value, name in default) for name, value in changed.items()]
    return "\n".join(["```sh", *lines, "```"])


def _word(name: str, value: Any, known: bool) -> str:
    """`known`: whether the defaults have the field; of a section that may be absent they do not."""
    items = [_shown(item) for item in value] if isinstance(value, tuple) else [_shown(value)]
    if not known or (isinstance(value, tuple) and any("," in item or not item for item in items)):
        said = tuple(items) if isinstance(value, tuple) else value
        return f"# in the config file: {name} = {said!r}"
    return shlex.quote(f"--{name}={','.join(items)}")


def _shown(value: Any) -> str:
    """Folders of the machine that it was trained on lose all but their name."""
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    found = _FOLDER.fullmatch(text)
    return f"{found[1]}{Path(found[2]).name}" if found else text
