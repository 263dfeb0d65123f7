"""Writing systems: whose words no spaces part, and which characters belong to the letter before.

Each name is the inside of a character class of `re`. Not for how texts are cut into words: see
`retrieval/bm25.py`, `data/augment/perturb.py`.
"""

from __future__ import annotations

import functools
import itertools
import unicodedata

# Kana, Han with extension A, hangul, compatibility ideographs, Han of the supplementary planes.
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
# What stands among those: signs for a repeated character, the zero, small and half-width
# kana, bopomofo.
CJK_MORE = "\u3005-\u3007\u3031-\u3035\u303b\u31f0-\u31ff\uff66-\uff9f\u3105-\u312f\u31a0-\u31bf"
# Thai, Lao, Myanmar with its extensions, Khmer, Tai Le, New Tai Lue, Tai Tham, Tai Viet, Ahom.
SOUTH_EAST_ASIAN = (
    "\u0e00-\u0eff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf"
    "\uaa80-\uaadf\U00011700-\U0001174f"
)
# Seen or not, they change no word: soft hyphen, joiners, variation selectors, byte order mark.
INVISIBLE = "\u00ad\u034f\u180b-\u180f\u200c\u200d\u2060\ufe00-\ufe0f\ufeff\U000e0100-\U000e01ef"
_LAST_MARK = 0x1FFFF  # behind it are variation selectors only


@functools.cache
def marks() -> str:
    """The combining marks (Unicode category M) but for the invisible ones: vowel signs, accents,
    points. `\\w` of `re` has none of them.
    """
    codes = [c for c in range(0x300, _LAST_MARK) if unicodedata.category(chr(c))[0] == "M"]
    runs = itertools.groupby(enumerate(codes), lambda pair: pair[1] - pair[0])
    ends = [[code for _, code in run] for _, run in runs]
    return "".join(f"{chr(run[0])}-{chr(run[-1])}" for run in ends)
