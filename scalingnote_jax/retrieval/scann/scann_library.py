"""ScaNN itself: importing it, the settings for a number of vectors, building one searcher from
them. What is kept of it on disk and how parts make one index is in `scann_index.py`.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from scalingnote_jax.config import IndexConfig
from scalingnote_jax.errors import bad_input

FEWEST_HASHED = 16  # asymmetric hashing learns 16 centres a block: it cannot from fewer vectors
SOAR_LAMBDA = 1.5  # a second leaf for each vector, so chosen that both are seldom missed together
THRESHOLD = 0.2  # of anisotropic quantisation: ScaNN's documentation's value for unit vectors


def rule_of_thumb(n: int, cfg: IndexConfig) -> dict[str, Any]:
    """The kind of index for n vectors, with every number that was chosen for it (ScaNN's
    docs/algorithms.md): brute force for few, hashing with reordering for more, and a tree of
    sqrt(n) leaves in front of that for many.
    """
    if n < max(cfg.exact_below, FEWEST_HASHED):
        return {"kind": "brute_force"}
    hashed = {
        "kind": "ah",
        "dimensions_per_block": 2,
        "anisotropic_quantization_threshold": THRESHOLD,
        "reorder": min(cfg.reorder, n),
    }
    if n <= cfg.partition_above:
        return hashed
    leaves = round(math.sqrt(n))
    searched = math.ceil(leaves * cfg.search_percent / 100)
    tree = {"leaves": leaves, "leaves_searched": searched, "soar_lambda": SOAR_LAMBDA}
    return hashed | tree | {"kind": "tree_ah"}


def build_searcher(vectors: np.ndarray, settings: dict[str, Any]) -> Any:
    """A ScaNN searcher of [n, D] float32 vectors. Leaves searched and reorder may be chosen anew at
    each search; the other settings are built in.
    """
    default_k = min(10, len(vectors))  # each search says its own k
    builder = import_scann().builder(np.ascontiguousarray(vectors), default_k, "dot_product")
    builder.set_n_training_threads(os.cpu_count() or 1)
    if settings["kind"] == "brute_force":
        builder.score_brute_force()
    else:
        if settings["kind"] == "tree_ah":
            builder.tree(
                settings["leaves"],
                settings["leaves_searched"],
                spherical=True,  # the vectors are unit vectors: so are the centres
                soar_lambda=settings["soar_lambda"],
            )
        builder.score_ah(
            settings["dimensions_per_block"],
            anisotropic_quantization_threshold=settings["anisotropic_quantization_threshold"],
        )
        builder.reorder(settings["reorder"])
    with _log_shown_on_failure():
        return builder.build()


def import_scann() -> Any:
    """ScaNN's numpy interface.

    Its package imports TensorFlow when it finds one, which takes seconds and has clashed over
    symbols: hidden meanwhile.
    """
    hide = "tensorflow" not in sys.modules
    if hide:
        sys.modules["tensorflow"] = None  # type: ignore[assignment]
    try:
        from scann.scann_ops.py import scann_ops_pybind
    except ImportError as e:
        raise bad_input(
            "scann",
            f"cannot be imported ({e})",
            "ScaNN for Linux on x86-64",
            "pip install 'scalingnote_jax[index]'",
        ) from e
    finally:
        if hide:
            del sys.modules["tensorflow"]
    return scann_ops_pybind


@contextmanager
def _log_shown_on_failure() -> Iterator[None]:
    """Holds back what ScaNN's C++ code logs to stderr, and shows it only if the block raises."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
