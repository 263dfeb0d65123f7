"""Names in titles: found where training queries say them, and put in place of others."""

from __future__ import annotations

from collections import Counter

import pytest

from scalingnote_jax.data.augment.title_names import TitleNames

NAMES = ["Worth House", "Hotel Garni", "Alpha-Milton", "Arbury Lodge", "Hobsons", "Acorn"]


def titles(kind: str = "(hotel) - review") -> list[str]:
    """Two documents of each name, and enough of others that a name is rare."""
    return [f"{name} {kind}" for name in NAMES for _ in range(2)] + [f"T{i:02}" for i in range(40)]


PAIRS = [
    ("Is Worth House quiet?", "Worth House (hotel) - review"),
    ("Does HOTEL garni have wifi? I like Hotel Garni.", "Hotel Garni (hotel) - review"),
    ("alpha milton: breakfast?", "Alpha-Milton (hotel) - review"),
    ("Is this hotel cheap?", "Arbury Lodge (hotel) - review"),  # names a kind only
]


def test_names_and_templates_by_hand() -> None:
    found = TitleNames(titles(), PAIRS)
    assert found.names[:6] == NAMES
    assert [t.parts for t in found.templates] == [
        ("Is ", " quiet?"),
        ("Does ", " have wifi? I like ", "."),
        ("", ": breakfast?"),
    ]
    assert found.name("Unheard Of (hotel) - review") == "Unheard Of"
    assert found.templates[1].filled("X") == "Does X have wifi? I like X."


def test_a_name_within_a_segment() -> None:
    pairs = [(f"what does {n} do with my data", f"Privacy policy of {n}") for n in NAMES[:3]]
    every = [f"Privacy policy of {n}" for n in NAMES] + [f"T{i}" for i in range(100)]
    found = TitleNames(every, pairs)
    assert found.names == NAMES
    assert {t.parts for t in found.templates} == {("what does ", " do with my data")}


@pytest.mark.parametrize(
    "pairs",
    [
        PAIRS[:2],  # two names do not show where names stand
        [("a review?", t) for t in titles()],  # what all titles share is no name
        [("Worth House", "Worth House (hotel)")] * 5,  # nothing is left of the query
        [("", "Worth House"), ("what", "")],
    ],
)
def test_no_names(pairs: list[tuple[str, str]]) -> None:
    found = TitleNames(titles(), pairs)
    assert not found.templates
    assert list(found.swapped(4, 0)) == []


def test_names_take_turns() -> None:
    found = TitleNames(titles(), PAIRS)
    texts = list(found.swapped(6, seed=3))
    assert len(texts) == 3 * 6
    asked = Counter(name for name in found.names for text in texts if name in text)
    assert max(asked.values()) == 1  # 18 texts, 46 names
    assert texts == list(found.swapped(6, seed=3))
    assert texts != list(found.swapped(6, seed=4))
