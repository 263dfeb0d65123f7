"""Exported folders give this package's vectors in the libraries that they are for: the code of each
model card is run as it stands. A library that is not installed skips its tests.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_exports import LONG, SHAPES, exported_tower, vectors_of, word_tokenizer

from scalingnote_jax.config.forms.prompt import MARKER
from scalingnote_jax.errors import UserError
from scalingnote_jax.export.card import Origin, write_card
from scalingnote_jax.export.exported_tower import ExportedTower
from scalingnote_jax.export.sentences import write_one, write_pair
from scalingnote_jax.export.snippets import QUERY, TEXT, TITLE
from scalingnote_jax.export.stablehlo import write_stablehlo
from scalingnote_jax.export.write_hf import write_body, write_hf

TEXTS = ["amber basin topic3", "cedar", "delta, umber? dune", " ".join(["ember fjord"] * 20)]
PROMPT = "about topic1: {text}"
MARKED = f"about {{text}} topic2 {MARKER}"


def needs(*names: str) -> None:
    for name in names:
        pytest.importorskip(name, reason=f"needs {name}: pip install '.[bench,onnx,export]'")


@pytest.fixture
def words(tmp_path: Path) -> Any:
    return word_tokenizer(tmp_path / "words")


def card_code(folder: Path, kind: str, *towers: ExportedTower) -> str:
    """The code in the card that is written into `folder`."""
    write_card(folder, kind, list(towers), Origin("small", {}), None)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return code


def run_card(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, *towers: ExportedTower
) -> dict:
    """The variables that the card's code leaves."""
    monkeypatch.chdir(folder)
    variables: dict[str, Any] = {}
    exec(card_code(folder, kind, *towers), variables)
    return variables


def example(tower: ExportedTower) -> list[Any]:
    return [QUERY if tower.side == "query" else (TITLE, TEXT)]


def close(given: Any, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(np.asarray(given), wanted, atol=1e-4)
    assert np.abs(wanted).mean() > 0.02


@pytest.mark.parametrize("family", SHAPES)
def test_hidden_states_of_each_family(family: str, words: Any, tmp_path: Path) -> None:
    needs("torch")
    import torch
    from transformers import AutoModel

    tower = exported_tower(SHAPES[family], words, pooling="mean")
    write_body(tower, tmp_path / "out", "float32")
    ids = words.encode(TEXTS, LONG)
    mask = np.arange(LONG) < np.array([len(row) for row in ids])[:, None]
    tokens = np.full(mask.shape, words.pad_id)
    tokens[mask] = np.concatenate(ids)
    model = AutoModel.from_pretrained(str(tmp_path / "out"))
    with torch.no_grad():
        hidden = model(
            input_ids=torch.tensor(tokens), attention_mask=torch.tensor(mask, dtype=torch.int64)
        ).last_hidden_state.numpy()
    mean = (hidden * mask[..., None]).sum(1)
    close(mean / np.linalg.norm(mean, axis=1, keepdims=True), vectors_of(tower, TEXTS))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"pooling": "mean", "projection": 8, "prompt": PROMPT}),
        ("llama", {"pooling": "last"}),
        ("bert", {"pooling": "cls", "projection": 8}),
        ("roberta", {"pooling": "mean", "side": "doc", "prompt": "about {title}: {text}"}),
    ],
)
def test_sentence_transformers(
    family: str, changes: dict, words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("torch", "sentence_transformers")
    tower, folder = exported_tower(SHAPES[family], words, **changes), tmp_path / "out"
    write_one(tower, folder, "float32")
    found = run_card(folder, monkeypatch, "sentence-transformers", tower)
    close(
        found["queries" if tower.side == "query" else "documents"],
        vectors_of(tower, example(tower)),
    )
    if tower.side == "query":  # also what is too long, and a call that names no prompt
        close(found["model"].encode_query(TEXTS), vectors_of(tower, TEXTS))
        close(found["model"].encode(TEXTS), vectors_of(tower, TEXTS))
    assert found["model"].max_seq_length == LONG
    assert found["model"].get_embedding_dimension() == tower.definition.dim


@pytest.mark.slow
def test_sentence_transformers_with_a_tower_for_each_side(
    words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("torch", "sentence_transformers")
    query = exported_tower(SHAPES["bert"], words, projection=8, prompt=PROMPT)
    doc = exported_tower(
        SHAPES["llama"], words, role="teacher", side="doc", projection=8, prompt="{title} {text}"
    )
    folder = tmp_path / "out"
    folder.mkdir()
    write_pair(query, doc, folder, "float32")
    found = run_card(folder, monkeypatch, "sentence-transformers", query, doc)
    close(found["queries"], vectors_of(query, [QUERY]))
    close(found["documents"], vectors_of(doc, [(TITLE, TEXT)]))
    close(found["model"].encode_query(TEXTS), vectors_of(query, TEXTS))
    close(found["model"].encode(TEXTS), vectors_of(query, TEXTS))  # the query's prompt too


@pytest.mark.parametrize(
    "changes",
    [{"prompt": "{text} topic2"}, {"title_tokens": 2}, {"pooling": "marker", "prompt": MARKED}],
)
def test_texts_that_sentence_transformers_cannot_make(
    changes: dict, words: Any, tmp_path: Path
) -> None:
    tower = exported_tower(SHAPES["llama"], words, **changes)
    with pytest.raises(UserError, match="sentence-transformers can do no more"):
        write_one(tower, tmp_path / "out", "float32")


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"pooling": "mean", "projection": 8, "prompt": PROMPT}),
        ("mistral", {"pooling": "last", "side": "doc", "prompt": "{title} {text}"}),
        ("llama", {"pooling": "marker", "prompt": MARKED}),
        ("bert", {"pooling": "cls"}),
    ],
)
def test_the_card_for_transformers(
    family: str, changes: dict, words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("torch")
    tower = exported_tower(SHAPES[family], words, **changes)
    write_hf(tower, tmp_path / "hf", "float32")
    wanted = vectors_of(tower, example(tower))
    close(run_card(tmp_path / "hf", monkeypatch, "hf", tower)["vectors"], wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"pooling": "mean", "projection": 8}),
        ("mistral", {"pooling": "last", "prompt": PROMPT}),
        ("bert", {"pooling": "cls"}),
    ],
)
def test_onnx(
    family: str, changes: dict, words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("torch", "onnxscript", "onnxruntime")
    onnx_model = importlib.import_module("scalingnote_jax.export.onnx_model")
    tower = exported_tower(SHAPES[family], words, **changes)
    onnx_model.write_onnx(tower, tmp_path)
    found = run_card(tmp_path, monkeypatch, "onnx", tower)
    close(found["vectors"], vectors_of(tower, [QUERY]))
    rendered = [tower.text.prompt.replace("{text}", text) for text in TEXTS]
    ids = words.encode(rendered, LONG)  # other sizes than in the card
    mask = (np.arange(LONG) < np.array([len(row) for row in ids])[:, None]).astype(np.int64)
    tokens = np.zeros_like(mask)
    tokens[mask > 0] = np.concatenate(ids)
    (given,) = found["session"].run(None, {"input_ids": tokens, "attention_mask": mask})
    close(given, vectors_of(tower, TEXTS))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("gemma3_text", {"pooling": "mean", "projection": 8, "prompt": PROMPT}),
        ("llama", {"pooling": "marker", "prompt": MARKED}),
        ("qwen2", {"pooling": "last", "bidirectional": True, "remat": "offload"}),
        ("roberta", {"pooling": "cls", "side": "doc", "prompt": "{title} {text}"}),
    ],
)
def test_a_process_that_has_only_jax_runs_the_programs(
    family: str, changes: dict, words: Any, tmp_path: Path
) -> None:
    needs("flatbuffers")
    tower, folder = exported_tower(SHAPES[family], words, **changes), tmp_path
    about = write_stablehlo(tower, folder)
    assert about["programs"] == {8: "tower-8.jaxexport", LONG: f"tower-{LONG}.jaxexport"}
    assert all((folder / name).stat().st_size < 100_000 for name in about["programs"].values())
    code = card_code(folder, "stablehlo", tower) + (
        "\nimport sys\n"
        "assert not {'scalingnote_jax', 'flax', 'transformers', 'torch'} & set(sys.modules)\n"
        "short = export.deserialize(open('tower-8.jaxexport', 'rb').read())\n"
        "assert short.platforms == ('cpu', 'tpu'), short.platforms\n"
        "tokens, mask = np.tile(tokens[:, :8], (5, 1)), np.tile(mask[:, :8], (5, 1))\n"
        "five = np.asarray(short.call(weights, tokens, mask.astype(bool)))\n"
        "np.save('found.npy', np.concatenate([vectors, five]))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=300)
    found, wanted = np.load(folder / "found.npy"), vectors_of(tower, example(tower))
    close(found, np.repeat(wanted, 6, axis=0))  # the example has at most 8 tokens
