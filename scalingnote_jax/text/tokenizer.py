"""Texts to token ids: one class over `tokenizers`, whatever the tokenizer was stored as.

Not for prompts, padding or batches (`data/`). The fingerprint is part of the contract that every
checkpoint and vector store carries: ids of another tokenizer look healthy and find nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from scalingnote_jax.errors import bad_input
from scalingnote_jax.files.guard import reading
from scalingnote_jax.hub import locate
from scalingnote_jax.text.gguf_tokenizer import gguf_tokenizer
from scalingnote_jax.text.tokenizer_files import check_ids

_FILE, _CONFIG = "tokenizer.json", "tokenizer_config.json"
# What `AutoTokenizer` looks at beside tokenizer.json. It may add tokens to it, change its
# normalizer and special tokens, or build another one by the class that these name.
_BESIDE = (_CONFIG, "special_tokens_map.json", "added_tokens.json", "config.json")
# Of the Transformer module of sentence-transformers, under the names that its versions gave it
SENTENCE_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)


class TextTokenizer:
    """A tokenizer with the special tokens that its model was trained with.

    Attributes:
        pad_id: what a batch is filled up with; never a sign that a token is padding.
        fingerprint: SHA-256 of all that decides about ids.
        vocab_size: ids are below it.
        num_special: special tokens that every text gets.
    """

    def __init__(self, tokenizer: Tokenizer, pad_id: int):
        """Takes `tokenizer` over, and switches off any truncation and padding that it came with."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        _drop_empty_template(tokenizer)
        self._tokenizer, self._max_tokens, self._lock = tokenizer, 0, threading.Lock()
        self._json = tokenizer.to_str()
        self.pad_id = pad_id
        self.fingerprint = hashlib.sha256(f"{pad_id}\n{self._json}".encode()).hexdigest()
        self.vocab_size = 1 + max(tokenizer.get_vocab().values())
        self.num_special = tokenizer.num_special_tokens_to_add(is_pair=False)

    def encode(self, texts: list[str], max_tokens: int) -> list[list[int]]:
        """Token ids of each text.

        Args:
            texts: any texts without lone surrogates, which have no UTF-8.
            max_tokens: longer texts lose tokens at their end, but keep a final special token.

        Returns:
            1 to `max_tokens` ids per text; a text without tokens gives [pad_id].

        Raises:
            UserError: `max_tokens` leaves no room beside the special tokens.
        """
        if max_tokens <= self.num_special:
            expected = f"more than the {self.num_special} special tokens of every text"
            raise bad_input("max_tokens", str(max_tokens), expected, "raise it")
        with self._lock:  # the length is part of the tokenizer's state
            if max_tokens != self._max_tokens:
                self._tokenizer.enable_truncation(max_tokens)
                self._max_tokens = max_tokens
            with reading(Path(_FILE), "a tokenizer that takes any text"):
                encodings = self._tokenizer.encode_batch_fast(texts)
        return [encoding.ids or [self.pad_id] for encoding in encodings]

    def encode_whole(self, texts: list[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Of each text all token ids, special tokens included, and the characters [start, end) that
        each stands for; (0, 0) for special tokens.
        """
        with self._lock:
            self._tokenizer.no_truncation()
            self._max_tokens = 0
            with reading(Path(_FILE), "a tokenizer that takes any text"):
                encodings = self._tokenizer.encode_batch(texts)
        return [(encoding.ids, encoding.offsets) for encoding in encodings]

    @classmethod
    def open(cls, folder: Path, pad_id: int) -> TextTokenizer:
        """What `save` wrote."""
        return cls(Tokenizer.from_file(str(folder / _FILE)), pad_id)

    def copy(self) -> TextTokenizer:
        """Another one like it, for a thread that is not to wait for the others."""
        return TextTokenizer(Tokenizer.from_str(self._json), self.pad_id)

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json and its config into `folder`; `load_tokenizer` gives it back."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "pad_token": self._tokenizer.id_to_token(self.pad_id),
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
        for name, text in ((_FILE, self._json), (_CONFIG, json.dumps(config, indent=1))):
            partial = folder / f"{name}.partial"
            partial.write_text(text, encoding="utf-8")
            partial.replace(folder / name)


def load_tokenizer(ref: str) -> TextTokenizer:
    """The tokenizer that `ref` means.

    Args:
        ref: "bytes" (one token per byte, for towers with random weights), "pip:PACKAGE",
            "hf:ORG/NAME", a folder (tokenizer.json, or any files that `transformers` can make a
            fast tokenizer of), a tokenizer.json, or a .gguf file.

    Raises:
        UserError: there is none, or it is damaged or of an unknown kind.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # unset, it warns in forked processes
    if ref == "random":
        raise bad_input(
            "tokenizer", "none, and random weights bring none", "a tokenizer", "set it in the tower"
        )
    if ref == "bytes":
        return _bytes()
    path = locate(ref, tokenizer=True)
    if path.suffix == ".gguf":
        with reading(path, "a .gguf file with a tokenizer"):
            return TextTokenizer(*gguf_tokenizer(path))
    check_ids(path)
    with reading(path, "a tokenizer"):
        return _from_files(path)


def _from_files(path: Path) -> TextTokenizer:
    if path.is_file():
        return _from_json(path)
    has_more = any((path / name).is_file() for name in _BESIDE)
    if (path / _FILE).is_file() and not has_more:
        return _from_json(path / _FILE)
    return _from_transformers(path)


def _bytes() -> TextTokenizer:
    """256 bytes after one pad token."""
    letters = ["<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return TextTokenizer(tokenizer, pad_id=0)


def _from_json(path: Path) -> TextTokenizer:
    """A tokenizer.json by itself; of a tokenizer_config.json beside it only the pad token is read,
    which decides about no text's ids.
    """
    beside = path.parent / _CONFIG
    try:
        tokenizer = Tokenizer.from_file(str(path))
        config = json.loads(beside.read_text()) if beside.is_file() else {}
    except Exception as e:  # tokenizers raises plain Exception
        raise bad_input(
            str(path), f"cannot be read ({e})", "a tokenizer.json", "fetch it again"
        ) from e
    return TextTokenizer(tokenizer, _pad_id(tokenizer, config))


def _pad_id(tokenizer: Tokenizer, config: dict[str, Any]) -> int:
    """The pad token's id; else that of the end of the text, else 0: any id does under a mask."""
    if tokenizer.padding:
        return int(tokenizer.padding["pad_id"])
    named = [config.get("pad_token"), "[PAD]", "<pad>", config.get("eos_token")]
    for token in named:
        content = token.get("content") if isinstance(token, dict) else token
        found = tokenizer.token_to_id(content) if content else None
        if found is not None:
            return found
    return 0


def _from_transformers(folder: Path) -> TextTokenizer:
    """The tokenizer of a folder as `AutoTokenizer` makes it: what the weights were trained with is
    said by several files, and how they go together by the class that they name. Lower-cased where
    a sentence-transformers folder says so.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that there is no PyTorch
    whole = (folder / _FILE).is_file()
    try:
        if whole:  # damage is better named by the file than by what a converter meets
            Tokenizer.from_file(str(folder / _FILE))
        from transformers import AutoTokenizer  # slow to import, hence only where it is needed

        loaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        tokenizer = loaded.backend_tokenizer
    except Exception as e:  # whatever a converter meets
        reason = str(e).strip().partition("\n")[0]
        if whole:
            raise bad_input(
                str(folder / _FILE),
                f"cannot be read as AutoTokenizer does ({reason})",
                "a tokenizer.json and settings beside it that go together",
                f"fetch them again, or name {_FILE} itself to take it without the settings",
            ) from e
        raise bad_input(
            str(folder),
            f"no tokenizer.json, and transformers cannot make one ({reason})",
            "a tokenizer",
            "save it with AutoTokenizer(...).save_pretrained",
        ) from e
    if getattr(loaded, "split_special_tokens", False):
        given, fix = "split_special_tokens true", "take it out"
        raise bad_input(str(folder / _CONFIG), given, "special tokens that stay whole", fix)
    if _lower_cases(folder):
        _lower(tokenizer)
    names = {"pad_token": loaded.pad_token, "eos_token": loaded.eos_token}
    return TextTokenizer(tokenizer, _pad_id(tokenizer, names))


def _lower_cases(folder: Path) -> bool:
    """Whether the folder is a Transformer module of sentence-transformers that lower-cases."""
    for name in SENTENCE_CONFIGS:
        if (folder / name).is_file():
            try:
                return bool(json.loads((folder / name).read_text()).get("do_lower_case"))
            except (ValueError, AttributeError) as e:
                raise bad_input(
                    str(folder / name), f"not JSON ({e})", "a JSON object", "fetch it again"
                ) from e
    return False


def _lower(tokenizer: Tokenizer) -> None:
    """Lower-cases before all else, as sentence-transformers does, unless it is done already."""
    before = tokenizer.normalizer
    if before is None:
        tokenizer.normalizer = normalizers.Lowercase()
        return
    steps = json.loads(before.__getstate__())
    for step in steps.get("normalizers", [steps]):
        if step["type"] == "Lowercase" or step.get("lowercase"):
            return
    is_sequence = isinstance(before, normalizers.Sequence)
    inner = [before[i] for i in range(len(before))] if is_sequence else [before]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *inner])


def _drop_empty_template(tokenizer: Tokenizer) -> None:
    """Takes out a post-processor that adds nothing, which `AutoTokenizer` puts where there is none:
    the same tokenizer has the same fingerprint, whoever saved it.
    """
    if isinstance(tokenizer.post_processor, TemplateProcessing):
        template = json.loads(tokenizer.post_processor.__getstate__())
        if [list(part) for part in template["single"]] == [["Sequence"]]:
            tokenizer.post_processor = None
