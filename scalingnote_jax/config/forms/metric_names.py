"""How metrics are named: "Recall@10", "MAP". Computes none: see `evaluate/metrics.py`."""

from __future__ import annotations

import re

KINDS = ("Recall", "nDCG", "MRR", "Success", "P", "MAP")
FORMS = ", ".join(f"{kind}@K" for kind in KINDS) + ", MAP"
_FORM = re.compile(r"(\w+)@([1-9]\d*)")


def parse(name: str) -> tuple[str, int] | None:
    """One of `KINDS` and the rank down to which it looks, 0 for all of the run; None for a name
    that is no metric.
    """
    if name == "MAP":
        return name, 0
    match = _FORM.fullmatch(name)
    return (match[1], int(match[2])) if match and match[1] in KINDS else None
