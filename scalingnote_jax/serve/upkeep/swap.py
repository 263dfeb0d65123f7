"""Another workdir or student in the place of the one that is live, without a pause: loaded beside
it, checked, switched at once, the old one kept to go back to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from scalingnote_jax.errors import UserError
from scalingnote_jax.serve.asked import known_fields, string_of
from scalingnote_jax.serve.live import Live, Opening
from scalingnote_jax.serve.refused import Refused, wrong
from scalingnote_jax.serve.upkeep.watch import CANARIES, canary_recall
from scalingnote_jax.vectors.encoder import unit_rows

LEAST_RECALL = 0.8  # of the canary queries, below which nothing is switched
SWAP_FIELDS = ("workdir", "student")


def swap_asked(values: dict[str, Any]) -> tuple[Path, str | None]:
    """The workdir and the student that a request to swap names.

    Raises:
        Refused: a field is not as it should be.
    """
    known_fields(values, SWAP_FIELDS)
    workdir = string_of(values, "workdir")
    if workdir is None:
        raise wrong("workdir", "not there", "a folder on the server's machine", "name one")
    return Path(workdir), string_of(values, "student")


def loaded(workdir: Path, opening: Opening, texts: list[str]) -> tuple[Live, float]:
    """What is to go live, warm and checked, and its canary recall.

    Args:
        texts: queries to check it with; none: it is asked for its own documents' texts.

    Raises:
        Refused: it cannot be opened (422), or finds too little (409).
    """
    try:
        live = Live.open(workdir, opening)
    except UserError as e:
        raise Refused(422, str(e), "workdir") from None
    live.warm()
    recall = _checked(live, texts or _own_texts(live))
    if recall < LEAST_RECALL:
        given = f"{recall:.2f} of the exact best 10 are found for {CANARIES} queries"
        fix = "build its index again; what was live stays"
        raise wrong("workdir", given, f"at least {LEAST_RECALL}", fix, status=409)
    return live, recall


def _checked(live: Live, texts: list[str]) -> float:
    tower = live.towers["query"]
    vectors = unit_rows(tower.vectors(tower.tokens(texts, "", long=False)))
    if not np.isfinite(vectors).all():
        fix = "train it again; what was live stays"
        raise wrong("workdir", "NaN in its query vectors", "finite numbers", fix, status=409)
    return canary_recall(live, vectors)


def _own_texts(live: Live) -> list[str]:
    ids = list(live.searcher.texts)[:CANARIES]
    hits = live.searcher.hits([[(doc_id, 0.0) for doc_id in ids]])[0]
    return [hit.line[:200] for hit in hits]
