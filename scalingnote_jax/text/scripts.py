"""Writing systems whose words no spaces part."""

from __future__ import annotations

# Kana, Han with extension A, hangul, compatibility ideographs, Han of the supplementary planes.
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
