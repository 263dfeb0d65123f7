"""Disturbed texts that one can read."""

from __future__ import annotations

import pytest

from scalingnote_jax.data.augment.perturb import (
    HOMOPHONES,
    NEIGHBOURS,
    QUERY_KINDS,
    near_copies,
    perturb,
    shuffled_documents,
)
from scalingnote_jax.data.sources.base import Document

TEXT = "Return the right sum of two arrays, element by element."
# fmt: off
WORDS = [
    "amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "jade",
]
# fmt: on
KINDS = sorted(QUERY_KINDS)


def disturbed(kind: str, text: str = TEXT, strength: float = 1.0, name: str = "q") -> str:
    return perturb(kind, text, strength, 0, name)


@pytest.mark.parametrize("kind", KINDS)
def test_strength_zero_changes_nothing_and_one_does(kind: str) -> None:
    odd = "  two  {words} \t with\nspaces "
    assert disturbed(kind, odd, 0.0) == odd
    assert disturbed(kind) != TEXT


@pytest.mark.parametrize("kind", KINDS)
def test_seed_id_and_strength_alone_decide(kind: str) -> None:
    assert perturb(kind, TEXT, 0.5, 3, "a") == perturb(kind, TEXT, 0.5, 3, "a")
    if kind not in ("padded", "truncated"):  # which have little or nothing to draw
        many = [perturb(kind, " ".join([TEXT] * 4), 0.5, 3, f"q{i}") for i in range(9)]
        assert len(set(many)) > 1
        other_seeds = [perturb(kind, " ".join([TEXT] * 4), 0.5, i, "q0") for i in range(9)]
        assert len(set(other_seeds)) > 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["", "   ", "x", "?!", "{}", "7", "法"])
def test_a_short_text_never_becomes_empty(kind: str, text: str) -> None:
    assert bool(disturbed(kind, text).strip()) or not text.strip()


def test_every_word_as_it_comes_out() -> None:
    assert disturbed("casing", "Read MAX of x") == "rEAD max OF X"
    assert disturbed("doubled_words", "to be") == "to to be be"
    assert disturbed("homophones", "Right, know the sum!") == "Write, no the some!"
    assert disturbed("accents", "a cozy Inn") == "á çóžý Íññ"
    assert disturbed("look_alikes", "cap") == "\u0441\u0430\u0440"
    assert disturbed("swaps", "ab ll 42 x") == "ba ll 42 x"
    assert disturbed("truncated", "one two three four") == "one"
    assert len(disturbed("dropped_words", "one two three four").split()) == 1
    assert disturbed("padded", "a b").startswith("This message was written on a mobile phone")
    assert disturbed("padded", "a b").endswith("as it stands in the form: a b")
    assert "{0} braces" in disturbed("politeness", "{0} braces")


def test_a_typo_is_one_letter_from_a_key_beside_it() -> None:
    assert NEIGHBOURS["s"] == "adwezx"
    assert NEIGHBOURS["q"] == "wa"
    for before, after in zip(TEXT.split(), disturbed("typos").split(), strict=True):
        [(was, now)] = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
        assert now.lower() in NEIGHBOURS[was.lower()]
        assert now.isupper() == was.isupper()


def test_keys_touch_both_ways() -> None:
    assert all(key in NEIGHBOURS[other] for key, others in NEIGHBOURS.items() for other in others)


def test_a_word_sounds_like_one_other() -> None:
    assert HOMOPHONES["to"] == "two"
    assert HOMOPHONES["too"] == "to"
    assert set(HOMOPHONES) == set(HOMOPHONES.values())
    assert all(word != other for word, other in HOMOPHONES.items())


def test_truncation_keeps_the_first_words_by_the_strength() -> None:
    text = " ".join(WORDS)
    assert disturbed("truncated", text, 0.5) == " ".join(WORDS[:5])
    lengths = [len(disturbed("truncated", text, 0.25, f"q{i}").split()) for i in range(400)]
    assert set(lengths) == {7, 8}
    assert sum(lengths) / 400 == pytest.approx(7.5, abs=0.1)


@pytest.mark.parametrize("kind", ["casing", "doubled_words", "accents", "dropped_words"])
def test_the_share_of_touched_words_is_the_strength(kind: str) -> None:
    touched = 0
    for i in range(200):
        words = perturb(kind, " ".join(WORDS), 0.3, 0, f"q{i}").split()
        change = {"doubled_words": len(words) - 10, "dropped_words": 10 - len(words)}
        same = sum(word in words for word in WORDS)
        touched += change.get(kind, 10 - same)
    assert touched / 2000 == pytest.approx(0.3, abs=0.03)  # 3 standard deviations


def test_a_higher_strength_touches_the_same_words_and_more() -> None:
    mild, rough = (disturbed("typos", strength=s).split() for s in (0.3, 0.6))
    for before, low, high in zip(TEXT.split(), mild, rough, strict=True):
        assert low in (before, high)


def test_chinese_goes_by_characters() -> None:
    assert disturbed("doubled_words", "劳动法") == "劳劳动动法法"
    assert disturbed("truncated", "劳动合同", 0.5) == "劳动"


def test_shuffled_documents_hold_the_same_words() -> None:
    documents = [Document("a", "one", "two three"), Document("b", "", "four five")]
    shuffled = shuffled_documents(documents, seed=1)
    assert [len(doc.text.split()) for doc in shuffled] == [3, 2]
    assert sorted(" ".join(doc.text for doc in shuffled).split()) == sorted(
        ["one", "two", "three", "four", "five"]
    )
    assert [doc.id for doc in shuffled] == ["shuffled:0", "shuffled:1"]
    assert shuffled == shuffled_documents(documents, seed=1)


def test_near_copies_differ_in_a_tenth_of_their_words() -> None:
    document = Document("d", "title", " ".join(WORDS * 20))
    copies = near_copies(document, 3, seed=0)
    assert [doc.id for doc in copies] == ["copy:0:d", "copy:1:d", "copy:2:d"]
    assert len({doc.text for doc in copies}) == 3
    for copy in copies:
        pairs = zip(document.text.split(), copy.text.split(), strict=True)
        assert sum(a != b for a, b in pairs) == pytest.approx(20, abs=13)  # 3 standard deviations
    assert near_copies(document, 1, seed=0) == copies[:1]
