"""ScalingNote (arXiv 2411.15766) in JAX: train a retriever whose two towers are LLMs, keep the
LLM's document vectors, ship a small query tower.

From Python: `model = scalingnote_jax.load(workdir)`,
`scalingnote_jax.Searcher.open(workdir).search(texts, k)`. Everything else is the `scalingnote`
command. Nothing heavy is imported until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scalingnote_jax.version import __version__

__all__ = ["Hit", "Model", "Searcher", "__version__", "load"]

if TYPE_CHECKING:
    from scalingnote_jax.retrieval.searcher import Hit, Model, Searcher, load


def __getattr__(name: str) -> Any:
    if name in __all__:
        from scalingnote_jax.retrieval import searcher as search

        return getattr(search, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
