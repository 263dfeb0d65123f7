"""Raw texts from where they live. `open_source` picks the reader that the config names."""

from __future__ import annotations

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.sources.base import SPLITS, Document, Qrels, Query, Source

__all__ = ["SPLITS", "Document", "Qrels", "Query", "Source", "open_source"]


def open_source(cfg: DataConfig) -> Source:
    """The source that `cfg.source` names.

    Raises:
        UserError: the folder or the distribution is not there. The texts are checked while they are
            read.
    """
    if cfg.source == "beir":
        from scalingnote_jax.data.sources.beir import BeirSource

        return BeirSource(cfg)
    from scalingnote_jax.data.sources.pydocs import PydocsSource

    return PydocsSource(cfg)
