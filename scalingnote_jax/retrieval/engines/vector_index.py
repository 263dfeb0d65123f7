"""What a searcher, the evaluation and the server need of an index."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from scalingnote_jax.errors import bad_input

REBUILD = "run `scalingnote index` again"


class VectorIndex(Protocol):
    """Finds rows of a vector store.

    Attributes:
        manifest: what it was built from and how.
    """

    manifest: dict[str, Any]

    @property
    def engine(self) -> str:
        """As `IndexConfig.engine`."""

    @property
    def kind(self) -> str:
        """How it searches."""

    def __len__(self) -> int: ...

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best rows of each query, best first.

        Args:
            queries: [q, D] float32 unit vectors.
            k: 1 <= k <= n.

        Returns:
            scores [q, k] float32 (dot products) and rows [q, k] int32.

        Raises:
            UserError: k is out of range, the widths differ, or a query holds NaN or is not of
                length 1.
        """


def check_owner(dir: Path, manifest: dict[str, Any], store_fingerprint: str) -> None:
    """Refuses an index of other vectors than those in use.

    Raises:
        UserError: it is one.
    """
    owner = str(manifest.get("store"))
    if owner != store_fingerprint:
        given = f"built from other vectors ({owner[:12]})"
        expected = f"an index of the vectors in use ({store_fingerprint[:12]})"
        raise bad_input(str(dir), given, expected, REBUILD)
