"""Disturbed texts: queries as hurried fingers, speech recognition or forms deliver them, documents
as mirrors and mixed-up corpora hold them.

Each is a function of (kind, text, strength, seed, id) alone. Strength 0 changes nothing; at 1 every
word that the kind can touch is touched, and what is touched at one strength is touched in the same
way at every higher one. Not for what the disturbance costs: that is `robustness.py`.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence

from scalingnote_jax.data.sources.base import Document
from scalingnote_jax.text.scripts import CJK

_WORD = re.compile(rf"[{CJK}]|[^\s{CJK}]+")  # a character is a word where nothing parts words
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # each a little further right than the one above
_ACCENTS = str.maketrans("aceinosuyzACEINOSUYZ", "áçéíñóšúýžÁÇÉÍÑÓŠÚÝŽ")
_LOOK_ALIKES = str.maketrans(  # Latin letters to the Cyrillic ones of the same shape
    "aceijopsxyABCEHIJKMOPSTXY",
    "\u0430\u0441\u0435\u0456\u0458\u043e\u0440\u0455\u0445\u0443\u0410\u0412\u0421\u0415\u041d"
    "\u0406\u0408\u041a\u041c\u041e\u0420\u0405\u0422\u0425\u04ae",
)
_FRAMES = (
    "Hello, could you please tell me: {} Thank you!",
    "Excuse me, I was wondering about {} if you don't mind.",
    "Um, so, what I wanted to ask is, you know, {}",
    "Hi there, please help me with this one: {} Thanks a lot in advance.",
    "Sorry to bother you, but {} please?",
)
_BOILERPLATE = (
    "This message was written on a mobile phone and may hold errors of typing. I have looked "
    "through the pages that came up before and could not find it there, so here is my question "
    "once more, as it stands in the form:"
)
COPY_STRENGTH = 0.1  # of the typos in a near-duplicate
# A line holds words that sound alike; each becomes the next, the last the first.
_HOMOPHONES = """
add ad | air heir | allowed aloud | assistance assistants | ate eight | bass base | band banned
be bee | bear bare | billed build | block bloc | blue blew | board bored | border boarder
brake break | buy by bye | byte bite | cache cash | capital capitol | cell sell | cells sells
cent scent sent | cereal serial | ceiling sealing | check cheque | chord cord | coarse course
complement compliment | council counsel | current currant | cymbal symbol | days daze | dear deer
descent dissent | die dye | discrete discreet | do due dew | draft draught | dual duel
fair fare | find fined | flour flower | for four | forth fourth | gene jean | genes jeans
great grate | guest guessed | hair hare | heal heel | heart hart | here hear | higher hire
hole whole | idle idol | in inn | its it's | kernel colonel | key quay | know no | knot not
lead led | least leased | lessen lesson | links lynx | load lode | loan lone | made maid
mail male | main mane | manner manor | meet meat | might mite | missed mist | mode mowed
muscle mussel | new knew | none nun | one won | or oar | our hour | packed pact | pain pane
pair pare pear | passed past | patience patients | peace piece | peak peek | phrase frays | pie pi
plain plane | pole poll | poor pour | presence presents | principal principle | profit prophet
queue cue | rain reign | raise rays | read red | real reel | right write | ring wring | role roll
root route | sale sail | scene seen | sea see | seam seem | shear sheer | sine sign | site sight
so sew | soar sore | sole soul | some sum | son sun | sort sought | source sauce | stake steak
stationary stationery | steal steel | step steppe | straight strait | suite sweet | tail tale
tax tacks | team teem | than then | their there they're | threw through | throne thrown | tide tied
time thyme | to two too | toe tow | vain vein | vary very | wait weight | waste waist | way weigh
weak week | wear where | weather whether | what watt | which witch | wood would | wrap rap
your you're
"""


def _next_of_each(groups: list[list[str]]) -> dict[str, str]:
    return {word: group[(i + 1) % len(group)] for group in groups for i, word in enumerate(group)}


HOMOPHONES = _next_of_each([g.split() for g in re.split(r"[|\n]", _HOMOPHONES.strip())])


def _neighbours() -> dict[str, str]:
    near: dict[str, str] = {}
    for row, keys in enumerate(_ROWS):
        above = _ROWS[row - 1] if row else ""
        below = _ROWS[row + 1] if row + 1 < len(_ROWS) else ""
        for i, key in enumerate(keys):
            beside = keys[max(i - 1, 0) : i] + keys[i + 1 : i + 2]
            near[key] = beside + above[i : i + 2] + below[max(i - 1, 0) : i + 1]
    return near


NEIGHBOURS = _neighbours()  # key → the keys that touch it on a QWERTY keyboard


def perturb(kind: str, text: str, strength: float, seed: int, text_id: str) -> str:
    """The text, disturbed.

    Args:
        kind: one of `QUERY_KINDS`.
        strength: 0 to 1; for most kinds the expected share of the words that are touched.
        seed, text_id: decide, with the kind, on which words are touched and how.

    Returns:
        The new text; never empty if `text` is not.
    """
    if strength <= 0:
        return text
    return QUERY_KINDS[kind](text, strength, random.Random(f"{seed} {kind} {text_id}"))


Touch = Callable[[str, float], str]  # a word and a number in [0, 1) that decides on details


def _each_word(touch: Touch) -> Callable[[str, float, random.Random], str]:
    """Touches each word with a probability of the strength."""

    def disturb(text: str, strength: float, rng: random.Random) -> str:
        def one(match: re.Match[str]) -> str:
            chance, detail = rng.random(), rng.random()  # drawn for every word: see the docstring
            return touch(match[0], detail) if chance < strength else match[0]

        return _WORD.sub(one, text)

    return disturb


def _mistype(word: str, detail: float) -> str:
    """One letter becomes that of a key beside it."""
    places = [i for i, c in enumerate(word) if c.lower() in NEIGHBOURS]
    if not places:
        return word
    i = places[int(detail * len(places))]
    keys = NEIGHBOURS[word[i].lower()]
    key = keys[int(detail * len(places) * len(keys)) % len(keys)]
    return word[:i] + (key.upper() if word[i].isupper() else key) + word[i + 1 :]


def _swap(word: str, detail: float) -> str:
    """Two letters that stand side by side and differ change places."""
    places = [i for i in range(len(word) - 1) if word[i : i + 2].isalpha()]
    places = [i for i in places if word[i] != word[i + 1]]
    if not places:
        return word
    i = places[int(detail * len(places))]
    return word[:i] + word[i + 1] + word[i] + word[i + 2 :]


def _sounds_like(word: str, _: float) -> str:
    """Another word of the same sound, if the table knows one."""
    bare = word.strip(".,;:!?\"'()")
    other = HOMOPHONES.get(bare.lower())
    if other is None:
        return word
    other = other.capitalize() if bare[0].isupper() else other
    return word.replace(bare, other, 1)


def _double(word: str, _: float) -> str:
    return word + word if re.fullmatch(f"[{CJK}]", word) else f"{word} {word}"


def _drop(text: str, strength: float, rng: random.Random) -> str:
    """Words vanish; the one that would go last always stays."""
    chances: list[tuple[float, re.Match[str]]] = []
    for match in _WORD.finditer(text):
        chances.append((rng.random(), match))
    if not chances:
        return text
    last = max(chances, key=lambda x: x[0])[1]
    gone = [m for chance, m in chances if chance < strength and m is not last]
    for match in reversed(gone):
        text = text[: match.start()] + text[match.end() :]
    return " ".join(text.split())


def _cut(text: str, strength: float, rng: random.Random) -> str:
    """Only the first words are left; the share is kept on average, at least one word always."""
    words = list(_WORD.finditer(text))
    if not words:
        return text
    gone = min(int(strength * len(words) + rng.random()), len(words) - 1)
    return text[: words[len(words) - gone - 1].end()]


def _pad(text: str, strength: float, _: random.Random) -> str:
    """The first words of a text that says nothing stand in front; all of them at strength 1."""
    words = _BOILERPLATE.split()
    return " ".join([*words[: math.ceil(strength * len(words))], text])


def _polite(text: str, strength: float, rng: random.Random) -> str:
    """A polite frame, or fillers, around a share of the texts that is the strength."""
    chance, detail = rng.random(), rng.random()
    return _FRAMES[int(detail * len(_FRAMES))].format(text) if chance < strength else text


QUERY_KINDS: dict[str, Callable[[str, float, random.Random], str]] = {
    "typos": _each_word(_mistype),
    "swaps": _each_word(_swap),
    "casing": _each_word(lambda word, _: word.swapcase()),
    "dropped_words": _drop,
    "doubled_words": _each_word(_double),
    "homophones": _each_word(_sounds_like),
    "politeness": _polite,
    "truncated": _cut,
    "padded": _pad,
    "accents": _each_word(lambda word, _: word.translate(_ACCENTS)),
    "look_alikes": _each_word(lambda word, _: word.translate(_LOOK_ALIKES)),
}


def shuffled_documents(documents: Sequence[Document], seed: int) -> list[Document]:
    """As many documents of the same lengths, from the same words in an order that means nothing.

    Not a stand-in for another domain: the words are those of this one, so word matching suffers
    most.
    """
    rng = random.Random(f"{seed} shuffled")
    words = [word for doc in documents for word in f"{doc.title} {doc.text}".split()]
    rng.shuffle(words)
    out, start = [], 0
    for number, doc in enumerate(documents):
        stop = start + len(f"{doc.title} {doc.text}".split())
        out.append(Document(f"shuffled:{number}", "", " ".join(words[start:stop])))
        start = stop
    return out


def near_copies(document: Document, count: int, seed: int) -> list[Document]:
    """Copies of a document with an adjacent-key typo in a tenth of the words, each in others."""
    copies = []
    for number in range(count):
        name = f"copy:{number}:{document.id}"
        text = perturb("typos", document.text, COPY_STRENGTH, seed, name)
        copies.append(Document(name, document.title, text))
    return copies
