"""The model card: README.md of an exported folder, from what the workdir knows about its towers.

What nobody told us, such as the licence of the weights that training began with, is said to be
unknown.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scalingnote_jax.config import Config
from scalingnote_jax.config.values import field_values
from scalingnote_jax.export.exported_tower import Source
from scalingnote_jax.export.snippets import snippet
from scalingnote_jax.systems import distills

_LIBRARY = {
    "sentence-transformers": "sentence-transformers",
    "hf": "transformers",
    "stablehlo": "jax",
    "onnx": "onnx",
}


def write_card(
    folder: Path, kind: str, sources: list[Source], config: Config, metrics: dict[str, Any] | None
) -> None:
    """Writes README.md.

    Args:
        kind: the format.
        sources: the towers in the folder.
        metrics: the content of eval/metrics.json; None if nothing was evaluated.
    """
    parts = [
        _front_matter(kind, sources),
        f"# {config.name}: {' and '.join(s.name for s in sources)}",
        "Trained with [scalingnote_jax](https://arxiv.org/abs/2411.15766) (ScalingNote): a dual "
        "tower of language models gives the document vectors, and a small student learns the "
        "vectors of its query tower.",
        "## Use",
        f"```python\n{snippet(kind, sources)}\n```",
        "## What a text goes through",
        _contract(kind, sources, config),
        "## Metrics",
        _metrics(metrics),
        "## Where it comes from",
        _origin(sources),
        "Settings that are not the default:",
        _settings(config),
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _front_matter(kind: str, sources: list[Source]) -> str:
    bases = sorted({s.tower.cfg.weights for s in sources if s.tower.cfg.weights.startswith("hf:")})
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


def _contract(kind: str, sources: list[Source], config: Config) -> str:
    rows = [
        f"| {s.name} | `{_quoted(s.text.prompt)}` | {s.text.max_tokens} | "
        f"{s.tokenizer.num_special} | {s.tower.cfg.pooling} | "
        f"{s.tower.cfg.projection or 'none'} | {s.tower.dim} |"
        for s in sources
    ]
    head = "| tower | prompt | tokens at most | special ones | pooling | projection | D |"
    notes = ["Vectors have length one: score them with the dot product."]
    notes.append("A text without any token has no vector; leave such texts out.")
    if any("{title}" in s.text.prompt for s in sources):
        notes.append("Title and text are put together before the tokenizer, as in the code above.")
    if not all(s.cut_at_end for s in sources):
        notes.append(
            "In training a text that is too long was cut inside of the title and the text, so that "
            "the words of the prompt behind them stay. The code above cuts at the end: shorten the "
            "text itself first."
        )
    if any(s.tower.cfg.dtype != "float32" for s in sources):
        notes.append("Products were taken in bfloat16 in training, and are in float32 here.")
    if kind in ("hf", "sentence-transformers") and any(s.tower.cfg.bidirectional for s in sources):
        notes.append(
            "Tokens see later ones too, which `transformers` reads from config.json; version 4 "
            "does not for every model type, and gives other vectors then: use 5.24 or later."
        )
    lengths = config.distill.matryoshka if distills(config) else ()
    if lengths := lengths or config.train.matryoshka:
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


def _origin(sources: list[Source]) -> str:
    lines = []
    for s in sources:
        cfg, layers = s.tower.cfg, s.tower.shape.num_layers
        lines.append(
            f"- {s.name}: started from `{_shown(cfg.weights)}`; layers: {layers}; weights: "
            f"{s.tower.num_params():,}"
        )
    note = (
        "The licence of the weights that training started from, and of the texts that it used, is "
        "not known to the program that wrote this; find out before you pass this folder on."
    )
    return "\n".join([*lines, "", note])


def _settings(config: Config) -> str:
    """As one would give them on the command line."""
    default = field_values(Config(config.name))
    changed = {k: v for k, v in field_values(config).items() if v != default.get(k)}
    lines = [f"--{name}={_shown(value)}" for name, value in changed.items()]
    return "\n".join(["```", *lines, "```"])


def _shown(value: Any) -> Any:
    """Folders of the machine that it was trained on lose all but their name."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
