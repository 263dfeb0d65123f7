"""The code in a model card: how to get this folder's vectors. Each piece runs as it stands inside
of the folder; the tests do so.
"""

from __future__ import annotations

from scalingnote_jax.config.forms.prompt import MARKER
from scalingnote_jax.export.exported_tower import ExportedTower
from scalingnote_jax.text.contract import to_marker
from scalingnote_jax.text.prompts import render

QUERY, TITLE, TEXT = "a question", "its title", "some text"


def example_code(kind: str, towers: list[ExportedTower]) -> str:
    """Python code that encodes `QUERY`, or the document (`TITLE`, `TEXT`), with each of `towers`
    from a folder of this format.
    """
    if kind == "sentence-transformers":
        return "\n".join(_sentences(towers))
    (tower,) = towers
    return "\n".join({"hf": _hf, "stablehlo": _stablehlo, "onnx": _onnx}[kind](tower))


def _example(tower: ExportedTower) -> str:
    """The rendered text."""
    pair = ("", QUERY) if tower.side == "query" else (TITLE, TEXT)
    return render(tower.text, *pair)


def _sentences(towers: list[ExportedTower]) -> list[str]:
    lines = [
        "from sentence_transformers import SentenceTransformer",
        "",
        'model = SentenceTransformer(".")',
    ]
    for tower in towers:
        before = tower.text.prompt.partition("{")[0]  # the library puts it in front
        texts = [_example(tower).removeprefix(before)]
        method, name = {
            "query": ("encode_query", "queries"),
            "doc": ("encode_document", "documents"),
        }[tower.side]
        lines.append(f"{name} = model.{method}({texts!r})  # [1, {tower.definition.dim}]")
    if len(towers) == 2:
        lines.append("print(model.similarity(queries, documents))")
    return lines


def _hf(tower: ExportedTower) -> list[str]:
    pooled = {
        "mean": "(hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)",
        "cls": "hidden[:, 0]",
    }
    last = "hidden[torch.arange(len(hidden)), mask.sum(1) - 1]"
    projected = bool(tower.cfg.projection)
    offsets = ", return_offsets_mapping=True" if to_marker(tower.cfg) else ", truncation=True"
    return [
        "import torch",
        *(["from safetensors.torch import load_file"] if projected else []),
        "from transformers import AutoModel, AutoTokenizer",
        "",
        'tokenizer, model = AutoTokenizer.from_pretrained("."), AutoModel.from_pretrained(".")',
        f"texts = [{_example(tower)!r}]",
        f'batch = tokenizer(texts, padding=True, return_tensors="pt"{offsets})',
        *_marker_in_torch(tower),
        "with torch.no_grad():",
        "    hidden = model(**batch).last_hidden_state.float()",
        'mask = batch["attention_mask"]',
        f"vectors = {pooled.get(tower.cfg.pooling, last)}",
        *(
            ['vectors = vectors @ load_file("projection.safetensors")["projection"]']
            if projected
            else []
        ),
        "vectors = torch.nn.functional.normalize(vectors, dim=-1)",
    ]


def _marker_in_torch(tower: ExportedTower) -> list[str]:
    if not to_marker(tower.cfg):
        return []
    return [
        'ends = batch.pop("offset_mapping")[..., 1]  # nothing from the marker on is read',
        f'starts = torch.tensor([[t.rindex("{MARKER}")] for t in texts])',
        'batch["attention_mask"] *= (ends <= starts).long().cummin(1).values',
    ]


def _ids(tower: ExportedTower) -> list[str]:
    """Lines that make `ids`, a list of lists, with `tokenizers` alone."""
    lines = ['tokenizer = Tokenizer.from_file("tokenizer.json")', f"texts = [{_example(tower)!r}]"]
    if to_marker(tower.cfg):
        return [
            *lines,
            "ids = []",
            "for text, e in zip(texts, tokenizer.encode_batch(texts)):",
            f'    start = text.rindex("{MARKER}")  # nothing from the marker on is read',
            "    behind = [end > start for _, end in e.offsets]",
            "    ids.append(e.ids[: behind.index(True)])",
        ]
    return [
        *lines,
        f"tokenizer.enable_truncation({tower.text.max_tokens})",
        "ids = [e.ids for e in tokenizer.encode_batch(texts)]",
    ]


def _padded(length: str, kind: str) -> list[str]:
    return [
        f"tokens, mask = np.zeros((2, len(ids), {length}), np.{kind})",
        "for row, of_text in enumerate(ids):",
        "    tokens[row, : len(of_text)], mask[row, : len(of_text)] = of_text, 1",
    ]


def _stablehlo(tower: ExportedTower) -> list[str]:
    length = tower.text.buckets[-1]
    return [
        "import numpy as np",
        "from jax import export",
        "from tokenizers import Tokenizer",
        "",
        f'tower = export.deserialize(open("tower-{length}.jaxexport", "rb").read())',
        'weights = dict(np.load("weights.npz"))  # with an accelerator: jax.device_put(weights)',
        *_ids(tower),
        *_padded(str(length), "int32"),
        "vectors = np.asarray(tower.call(weights, tokens, mask.astype(bool)))",
    ]


def _onnx(tower: ExportedTower) -> list[str]:
    return [
        "import numpy as np",
        "import onnxruntime",
        "from tokenizers import Tokenizer",
        "",
        'session = onnxruntime.InferenceSession("model.onnx")',
        *_ids(tower),
        *_padded("max(map(len, ids))", "int64"),
        '(vectors,) = session.run(None, {"input_ids": tokens, "attention_mask": mask})',
    ]
