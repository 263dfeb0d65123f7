"""What a folder has beside its body: taken where the config leaves it open, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_exports import LONG, SHAPES, exported_tower, vectors_of, word_tokenizer
from small_models import LLAMA_CONFIG, E, llama_tensors, write_gguf, write_hf

from scalingnote_jax.config import TextConfig, TowerConfig, replace
from scalingnote_jax.config.forms.prompt import MARKER
from scalingnote_jax.errors import UserError
from scalingnote_jax.export.exported_tower import ExportedTower
from scalingnote_jax.export.sentences import write_one, write_pair
from scalingnote_jax.export.write_hf import write_hf as write_hf_export
from scalingnote_jax.models.layers.params import flatten
from scalingnote_jax.models.tower import tower_def
from scalingnote_jax.models.weights.beside.completion import complete_tower, settings_of
from scalingnote_jax.models.weights.pretrained import open_pretrained
from scalingnote_jax.text.contract import contract, tower_tokenizer

TEXT = TextConfig(max_tokens=8, buckets=(8,))
Change = dict[str, Any]


def put(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def sentence_folder(
    folder: Path,
    *,
    pooling: Change | None = None,
    dense: tuple[Change, ...] = (),
    kinds: tuple[str, ...] = (),
    settings: Change | None = None,
    transformer: Change | None = None,
    normalise: bool = True,
) -> str:
    """A small Llama with modules, E wide; each Dense maps to the next of 6, 10 dimensions."""
    write_hf(folder, LLAMA_CONFIG | {"max_position_embeddings": 512}, llama_tensors())
    rng, width = np.random.default_rng(3), E
    names = ["Transformer", "Pooling", *["Dense"] * len(dense), *["Normalize"] * normalise, *kinds]
    listed = []
    for i, name in enumerate(names):
        path = f"{i}_{name}" if i else ""
        kind = f"sentence_transformers.models.{name}"
        listed.append({"idx": i, "name": str(i), "path": path, "type": kind})
    put(folder / "modules.json", listed)
    put(folder / "1_Pooling/config.json", {"pooling_mode_mean_tokens": True} | (pooling or {}))
    for i, (change, out) in enumerate(zip(dense, (6, 10), strict=False), 2):
        config = {"in_features": width, "out_features": out}
        config |= {"activation_function": "torch.nn.modules.linear.Identity"}
        bias = change.get("bias_of")
        config |= {"bias": bias is not None} | change
        config.pop("bias_of", None)
        put(folder / f"{i}_Dense/config.json", config)
        tensors = {"linear.weight": rng.normal(size=(out, width)).astype(np.float32)}
        if bias is not None:
            tensors["linear.bias"] = np.full(out, bias, np.float32)
        save_file(tensors, folder / f"{i}_Dense/model.safetensors")
        width = out
    put(folder / "config_sentence_transformers.json", settings or {})
    put(folder / "sentence_bert_config.json", {"max_seq_length": 24} | (transformer or {}))
    return str(folder)


def complete(ref: str, side: Any = "query", **changes: Any) -> TowerConfig:
    return complete_tower(TowerConfig(weights=ref, **changes), side, "teacher.query")[0]


PROMPTS = {"prompts": {"query": "Q: ", "passage": "P: "}, "default_prompt_name": None}


def test_what_the_config_leaves_open_is_taken(tmp_path: Path) -> None:
    ref = sentence_folder(
        tmp_path / "m", pooling={"pooling_mode": "lasttoken"}, dense=({}, {}), settings=PROMPTS
    )
    cfg, lines = complete_tower(TowerConfig(weights=ref), "query", "teacher.query")
    assert (cfg.pooling, cfg.projection) == ("last", 10)
    assert cfg.text == TextConfig("Q: {text}", 24, (16, 24))
    assert complete(ref, "doc").text.prompt == "P: {text}"
    assert "1_Pooling (lasttoken), 2_Dense (32 → 6), 3_Dense (6 → 10)" in lines[0]
    assert complete_tower(cfg, "query", "teacher.query") == (cfg, [])  # nothing is left open
    weights = [
        np.asarray(layer.read(), np.float64)
        for layer in settings_of(Path(ref)).linear  # type: ignore[union-attr]
    ]
    projection = tower_def(cfg).pretrained_params(0)["projection"]
    np.testing.assert_allclose(projection, weights[0] @ weights[1], atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "query", "doc"),
    [
        ({}, "{text}", "{text}"),
        (
            {"prompts": {"query": "Q: ", "document": "D: ", "passage": "P: "}},
            "Q: {text}",
            "D: {text}",
        ),
        ({"prompts": {"a": "A: "}, "default_prompt_name": "a"}, "A: {text}", "A: {text}"),
        (
            {"prompts": {"query": "Q: ", "a": "A: "}, "default_prompt_name": "a"},
            "Q: {text}",
            "A: {text}",
        ),
        ({"prompts": {"clustering": "C: "}}, "{text}", "{text}"),
    ],
)
def test_whose_prompt_a_side_takes(settings: Change, query: str, doc: str, tmp_path: Path) -> None:
    ref = sentence_folder(tmp_path / "m", settings=settings)
    assert complete(ref, "query").text.prompt == query
    assert complete(ref, "doc").text.prompt == doc


def test_a_users_own_prompt_and_shorter_texts(tmp_path: Path) -> None:
    ref = sentence_folder(tmp_path / "m", settings=PROMPTS)
    own = replace(TEXT, prompt="search: {text}")
    cfg, lines = complete_tower(TowerConfig(weights=ref, text=own), "query", "teacher.query")
    assert cfg.text == own
    assert "prompt 'search: {text}', as the config says" in lines[-1]
    with pytest.raises(UserError, match="max_tokens: 32; expected at most 24"):
        complete(ref, text=TextConfig(max_tokens=32, buckets=(32,)))


@pytest.mark.parametrize(
    ("transformer", "query", "doc"),
    [
        ({"max_seq_length": None}, 512, 512),
        ({"query_length": 20, "max_seq_length": 30}, 20, 30),
    ],
)
def test_lengths(transformer: Change, query: int, doc: int, tmp_path: Path) -> None:
    ref = sentence_folder(tmp_path / "m", transformer=transformer)
    assert complete(ref, "query").text.max_tokens == query
    assert complete(ref, "doc").text.max_tokens == doc
    put(tmp_path / "m/tokenizer_config.json", {"model_max_length": 100})
    assert complete(ref, "doc").text.max_tokens == min(doc, 100)


def test_a_config_that_contradicts_the_folder(tmp_path: Path) -> None:
    ref = sentence_folder(tmp_path / "m", dense=({},))
    with pytest.raises(UserError, match=r"pooling: 'last'; expected 'mean'.*1_Pooling \(mean\)"):
        complete(ref, pooling="last")
    with pytest.raises(UserError, match=r"projection: 7; expected 6.*2_Dense \(32 → 6\)"):
        complete(ref, projection=7)
    # A tower that nobody completed does not do it by itself
    tower = tower_def(TowerConfig(weights=ref))
    with pytest.raises(UserError, match=r"tower\.projection: 0; expected 6"):
        tower.pretrained_params(0)
    alone = TowerConfig(weights=ref, pooling="last", projection=7, body_only=True)
    assert complete_tower(alone, "query", "teacher.query") == (alone, [])
    assert tower_def(alone).pretrained_params(0)["projection"].shape == (E, 7)


def test_the_body_alone_says_what_is_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ref = sentence_folder(tmp_path / "m", dense=({},))
    assert open_pretrained(ref).settings is not None
    assert "the body; 1_Pooling (mean), 2_Dense (32 → 6), at most 24" in capsys.readouterr().err
    assert open_pretrained(ref, body_only=True).settings is None
    assert capsys.readouterr().err == ""


REFUSED: list[tuple[Change, str]] = [
    ({"pooling": {"pooling_mode_cls_token": True}}, "Pooling cls and mean"),
    ({"pooling": {"pooling_mode": ["mean", "max"]}}, "Pooling mean and max"),
    ({"pooling": {"pooling_mode": "weightedmean"}}, "Pooling weightedmean"),
    ({"pooling": {"include_prompt": False}, "settings": PROMPTS}, "include_prompt false"),
    ({"dense": ({"activation_function": "torch.nn.modules.activation.Tanh"},)}, "Dense with torch"),
    ({"dense": ({"bias_of": 0.5},)}, "Dense with a bias"),
    ({"dense": ({"use_residual": True},)}, "use_residual True"),
    ({"dense": ({"module_input_name": "token_embeddings"},)}, "module_input_name"),
    ({"dense": ({"in_features": 5},)}, "32 → 6"),
    ({"kinds": ("LayerNorm",)}, "Transformer → Pooling → Normalize → LayerNorm"),
    ({"kinds": ("Dense",)}, "Normalize → Dense"),
    ({"settings": {"similarity_fn_name": "dot"}, "normalise": False}, "'dot' without Normalize"),
    ({"settings": {"similarity_fn_name": "manhattan"}}, "similarity_fn_name 'manhattan'"),
    ({"settings": {"model_type": "SparseEncoder"}}, "model_type 'SparseEncoder'"),
    ({"settings": {"truncate_dim": 8}}, "truncate_dim 8"),
    ({"settings": {"default_prompt_name": "s"}}, "default_prompt_name 's'"),
    ({"settings": {"prompts": {"query": "{text} "}}}, "prompt '{text} '"),
    ({"transformer": {"transformer_task": "fill-mask"}}, "transformer_task 'fill-mask'"),
    ({"transformer": {"query_expansion": {"length": 32}}}, "query_expansion"),
    ({"transformer": {"model_args": {"rope_theta": 5}}}, "model_args {'rope_theta': 5}"),
    ({"transformer": {"pooling": "x"}}, "pooling 'x'"),
]


@pytest.mark.parametrize(("change", "says"), REFUSED, ids=[says for _, says in REFUSED])
def test_what_a_tower_has_not_is_named(change: Change, says: str, tmp_path: Path) -> None:
    ref = sentence_folder(tmp_path / "m", **change)
    for use in (complete, open_pretrained):
        with pytest.raises(UserError) as error:
            use(ref)
        assert says in str(error.value)
        assert "\n" not in str(error.value)
    open_pretrained(ref, body_only=True)


def test_what_changes_nothing_is_taken(tmp_path: Path) -> None:
    ref = sentence_folder(
        tmp_path / "m",
        dense=({"bias_of": 0.0},),
        settings={"similarity_fn_name": "dot", "__version__": {"pytorch": "2"}},
        transformer={"do_lower_case": False, "model_args": {"torch_dtype": "float16"}},
    )
    assert complete(ref).projection == 6


def test_modules_of_another_package(tmp_path: Path) -> None:
    ref = sentence_folder(tmp_path / "m")
    listed = json.loads((tmp_path / "m/modules.json").read_text())
    listed[0]["type"] = "custom_st.Transformer"
    put(tmp_path / "m/modules.json", listed)
    with pytest.raises(UserError, match=r"custom_st\.Transformer → Pooling"):
        complete(ref)


def test_the_pooling_of_a_gguf_file(tmp_path: Path) -> None:
    last = gguf_with_pooling(tmp_path / "last.gguf", 3)
    assert complete(last).pooling == "last"
    with pytest.raises(UserError, match=r"pooling: 'mean'; expected 'last'"):
        tower_def(TowerConfig(weights=last)).pretrained_params(0)
    with pytest.raises(UserError, match="pooling_type 4"):
        complete(gguf_with_pooling(tmp_path / "rank.gguf", 4))


def gguf_with_pooling(path: Path, kind: int) -> str:
    return write_gguf(path, llama_tensors(), lambda w: w.add_uint32("llama.pooling_type", kind))


TEXTS = ["amber basin topic3", "cedar delta", " ".join(["ember fjord"] * 20)]
Write = Callable[[ExportedTower, Path], str]


def as_sentences(tower: ExportedTower, folder: Path) -> str:
    write_one(tower, folder, "float32")
    return str(folder)


def as_hf(tower: ExportedTower, folder: Path) -> str:
    write_hf_export(tower, folder, "float32")
    terms = {tower.name: contract(tower.definition, tower.tokenizer)}
    put(folder / "contract.json", {"towers": terms})
    return str(folder)


def as_pair(tower: ExportedTower, folder: Path) -> str:
    doc = exported_tower(SHAPES["bert"], tower.tokenizer, side="doc", role="teacher", projection=9)
    write_pair(tower, doc, folder, "float32")
    return str(folder / "query_0_Transformer")


@pytest.mark.parametrize("write", [as_sentences, as_hf, as_pair])
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"projection": 9, "prompt": "Q: {text}"}),
        ("qwen3", {"pooling": "last"}),
        ("bert", {"projection": 9, "pooling": "cls"}),
    ],
)
def test_our_own_exports_are_read_back(
    write: Write, family: str, changes: Change, tmp_path: Path
) -> None:
    tower = exported_tower(SHAPES[family], word_tokenizer(tmp_path / "words"), **changes)
    ref = write(tower, tmp_path / "out")
    cfg = complete(ref)
    back = tower_def(cfg)
    tokenizer = tower_tokenizer(cfg)
    params = flatten(back.pretrained_params(0))
    assert params.keys() == tower.params.keys()
    for path, weight in params.items():
        np.testing.assert_allclose(weight, tower.params[path], atol=1e-7, err_msg=path)
    again = ExportedTower("student", "query", back, params, tokenizer)
    np.testing.assert_allclose(vectors_of(again, TEXTS), vectors_of(tower, TEXTS), atol=1e-6)
    wanted = contract(tower.definition, tower.tokenizer)
    assert contract(back, tokenizer) | {"tokenizer": ""} == wanted | {"tokenizer": ""}


def test_an_export_that_only_we_can_read(tmp_path: Path) -> None:
    """A title, a marker: in contract.json, and in no other library's settings."""
    prompt = f"{{title}} : {{text}} is {MARKER}"
    words = word_tokenizer(tmp_path / "words")
    tower = exported_tower(
        SHAPES["llama"], words, prompt=prompt, title_tokens=3, pooling="marker", side="doc"
    )
    cfg = complete(as_hf(tower, tmp_path / "out"), "doc")
    assert (cfg.pooling, cfg.text.prompt, cfg.text.title_tokens) == ("marker", prompt, 3)
    assert cfg.text.max_tokens == LONG


def test_a_projection_that_is_missing(tmp_path: Path) -> None:
    tower = exported_tower(SHAPES["llama"], word_tokenizer(tmp_path / "words"), projection=9)
    ref = as_hf(tower, tmp_path / "out")
    (tmp_path / "out/projection.safetensors").unlink()
    with pytest.raises(UserError, match=r"dim 9 in contract\.json, and 24 → 24 in the body"):
        complete(ref)


def test_two_towers_behind_a_router(tmp_path: Path) -> None:
    as_pair(exported_tower(SHAPES["llama"], word_tokenizer(tmp_path / "words")), tmp_path / "out")
    with pytest.raises(UserError, match=r"folder of one tower: .*query_0_Transformer or "):
        complete(str(tmp_path / "out"))
