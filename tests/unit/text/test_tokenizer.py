"""Tokenizers from a tokenizer.json, a GGUF file and a folder without either; none needs torch."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest
from small_models import BERT_CONFIG, TOKENS, llama_tensors, write_gguf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from scalingnote_jax.errors import UserError
from scalingnote_jax.text.tokenizer import load_tokenizer


def test_gguf_tokenizer(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_gguf(tmp_path / "m.gguf", llama_tensors()))
    ids = {token: i for i, token in enumerate(TOKENS)}
    assert tokenizer.encode(["abc 12"], 8) == [[ids["abc"], ids["Ġ"], ids["1"], ids["2"]]]
    assert tokenizer.encode(["abc<|start|>", "", "abcab"], 2) == [
        [ids["abc"], 1],
        [0],  # a text without tokens: the pad id, which is eos where the file names none
        [ids["abc"], ids["ab"]],
    ]
    assert (tokenizer.pad_id, tokenizer.num_special, tokenizer.vocab_size) == (0, 0, len(TOKENS))

    def with_bos(writer: gguf.GGUFWriter) -> None:
        writer.add_add_bos_token(True)
        writer.add_pad_token_id(1)

    other = load_tokenizer(write_gguf(tmp_path / "bos.gguf", llama_tensors(), with_bos))
    assert other.encode(["abc 12"], 8) == [[1, ids["abc"], ids["Ġ"], ids["1"], ids["2"]]]
    assert (other.pad_id, other.num_special) == (1, 1)
    assert other.fingerprint != tokenizer.fingerprint


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "a", "cat", "dog", "##s"]


def bert_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def test_tokenizer_json(tmp_path: Path) -> None:
    stored = bert_tokenizer()
    stored.enable_truncation(4)  # as sentence-transformers folders have it: not ours to obey
    stored.enable_padding(pad_id=0, pad_token="[PAD]", length=128)
    stored.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.encode(["the cats", "a dog the cat"], 16) == [
        [2, 4, 6, 8, 3],
        [2, 5, 7, 4, 6, 3],
    ]
    assert tokenizer.encode(["a dog the cat", "a"], 4) == [[2, 5, 7, 3], [2, 5, 3]]
    assert tokenizer.encode(["a dog the cat"], 16) == [[2, 5, 7, 4, 6, 3]]
    assert tokenizer.encode([""], 16) == [[2, 3]]
    assert (tokenizer.pad_id, tokenizer.num_special, tokenizer.vocab_size) == (0, 2, 9)
    with pytest.raises(UserError, match=r"max_tokens: 2; expected more than the 2 special"):
        tokenizer.encode(["a"], 2)
    bert_tokenizer().save(str(tmp_path / "plain.json"))
    assert load_tokenizer(str(tmp_path / "plain.json")).fingerprint == tokenizer.fingerprint


def test_a_text_without_tokens_has_one(tmp_path: Path) -> None:
    plain = bert_tokenizer()
    plain.post_processor = processors.Sequence([])
    plain.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(str(tmp_path)).encode(["", " ", "a"], 4) == [[0], [0], [5]]


def test_saved_tokenizer_is_the_same(tmp_path: Path) -> None:
    first = load_tokenizer(write_gguf(tmp_path / "m.gguf", llama_tensors()))
    first.save(tmp_path / "saved")
    again = load_tokenizer(str(tmp_path / "saved"))
    assert again.fingerprint == first.fingerprint
    assert again.encode(["abc 12 <|end|>"], 8) == first.encode(["abc 12 <|end|>"], 8)
    assert sorted(p.name for p in (tmp_path / "saved").iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_pad_token_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    prints = set()
    for pad in ("[UNK]", "[SEP]", {"__type": "AddedToken", "content": "[SEP]"}):
        bert_tokenizer().save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": pad}))
        prints.add(load_tokenizer(str(tmp_path)).fingerprint)
    assert len(prints) == 2


def test_tokenizer_of_a_folder_without_a_json(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS, "[MASK]"]))
    (tmp_path / "config.json").write_text(json.dumps(BERT_CONFIG))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.encode(["The cats"], 16) == [[2, 4, 6, 8, 3]]
    assert tokenizer.pad_id == 0


def test_refused_tokenizers(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json: cannot be read"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer\.json, and transformers cannot make one"):
        load_tokenizer(str(tmp_path))
    path = write_gguf(tmp_path / "m.gguf", llama_tensors(), pre="llama-bpe")
    with pytest.raises(UserError, match=r"a tokenizer of kind \('gpt2', 'llama-bpe'\)"):
        load_tokenizer(path)
    with pytest.raises(UserError, match="random weights bring none"):
        load_tokenizer("random")


def test_bytes() -> None:
    tokenizer = load_tokenizer("bytes")
    (ascii_ids, accent, empty) = tokenizer.encode(["ab", "é", ""], 8)
    assert (len(ascii_ids), len(accent), empty) == (2, 2, [0])  # é is two bytes in UTF-8
    assert len({*ascii_ids, *accent}) == 4
    assert tokenizer.vocab_size == 257
    assert tokenizer.encode(["a" * 20], 8) == [[ascii_ids[0]] * 8]
