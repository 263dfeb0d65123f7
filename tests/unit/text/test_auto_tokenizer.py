"""Folders whose files disagree about the tokenizer: the ids are those of `AutoTokenizer`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from scalingnote_jax.errors import UserError
from scalingnote_jax.text.tokenizer import load_tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "amber", "topic", "Amber", "caf", "##e"]
TEXTS = ["amber [EMB] topic", "Amber TOPIC", "café Amber", "<s>amber</s>", "[PAD] topic", ""]
EMB = {
    "content": "[EMB]",
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "single_word": False,
    "special": True,
}
SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def bert(folder: Path) -> None:
    """Keeps case, whatever the settings say."""
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def bytes_with_ends(folder: Path, template: str = "") -> None:
    names = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({n: i for i, n in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    if template:
        ends = [("<s>", 1), ("</s>", 2)]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=ends
        )
    tokenizer.save(str(folder / "tokenizer.json"))


def bert_class(**settings: Any) -> dict[str, Any]:
    return {"tokenizer_class": "BertTokenizer", **settings}


def fast(**settings: Any) -> dict[str, Any]:
    return {"tokenizer_class": "PreTrainedTokenizerFast", **SPECIAL, **settings}


CASES = {
    "lower": (bert, bert_class(do_lower_case=True)),
    "keeps case": (bert, bert_class(do_lower_case=False)),
    "accents": (bert, bert_class(do_lower_case=True, strip_accents=False)),
    "added": (bytes_with_ends, fast(added_tokens_decoder={"300": EMB})),
    "extra": (bytes_with_ends, fast(additional_special_tokens=["[EMB]"])),
    "pad alone": (bytes_with_ends, fast(pad_token="[PAD]")),
    "no ends asked for": (bytes_with_ends, fast(add_bos_token=False, add_eos_token=False)),
    "both ends asked for": (bytes_with_ends, fast(add_bos_token=True, add_eos_token=True)),
    "llama": (
        bytes_with_ends,
        {"tokenizer_class": "LlamaTokenizer", **SPECIAL, "add_eos_token": True},
    ),
    "gpt2": (bytes_with_ends, {"tokenizer_class": "GPT2Tokenizer", **SPECIAL}),
}


@pytest.mark.parametrize("case", CASES)
def test_ids_of_auto_tokenizer(case: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write, settings = CASES[case]
    write(tmp_path)
    plain = load_tokenizer(str(tmp_path / "tokenizer.json")).encode(TEXTS, 64)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs = AutoTokenizer.from_pretrained(str(tmp_path))(TEXTS)["input_ids"]
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.encode(TEXTS, 64) == [ids or [tokenizer.pad_id] for ids in theirs]
    if case in ("lower", "added", "extra", "pad alone"):  # these files do disagree
        assert tokenizer.encode(TEXTS, 64) != plain
    tokenizer.save(tmp_path / "saved")
    assert load_tokenizer(str(tmp_path / "saved")).encode(TEXTS, 64) == tokenizer.encode(TEXTS, 64)


def test_ends_of_the_template(tmp_path: Path) -> None:
    bytes_with_ends(tmp_path, "<s> $A")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fast(add_eos_token=True)))
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(str(tmp_path))("a")["input_ids"]
    assert load_tokenizer(str(tmp_path)).encode(["a"], 8) == [theirs]
    assert theirs[0] == 1


def test_the_class_that_config_json_names(tmp_path: Path) -> None:
    """Without a tokenizer_config.json the model type decides: Qwen's has its own pre-tokenizer."""
    from transformers import AutoTokenizer

    bytes_with_ends(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    theirs = AutoTokenizer.from_pretrained(str(tmp_path))
    assert type(theirs).__name__ == "Qwen2Tokenizer"
    texts = ["cafe\u0301 12", "a\n\nb"]
    assert load_tokenizer(str(tmp_path)).encode(texts, 64) == theirs(texts)["input_ids"]


def test_lower_casing_of_a_sentence_transformers_folder(tmp_path: Path) -> None:
    bert(tmp_path)
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(bert_class(do_lower_case=False)))
    assert load_tokenizer(str(tmp_path)).encode(["Amber TOPIC"], 64) == [[2, 5, 6, 3]]
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": False}))
    assert load_tokenizer(str(tmp_path)).encode(["Amber TOPIC"], 64) == [[2, 7, 1, 3]]


def test_what_cannot_be_followed_is_named(tmp_path: Path) -> None:
    bytes_with_ends(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps(fast(split_special_tokens=True)))
    with pytest.raises(UserError, match="split_special_tokens true"):
        load_tokenizer(str(tmp_path))
    config.write_text("{")
    with pytest.raises(UserError, match="cannot be read") as error:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(error.value)
