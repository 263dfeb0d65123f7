"""Raw texts from where they live. `open_source` picks the reader that the config names."""

from __future__ import annotations

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.sources.base import SPLITS, Document, NoTexts, Qrels, Query, Source

__all__ = ["SPLITS", "Document", "Qrels", "Query", "Source", "open_source"]


def open_source(cfg: DataConfig) -> Source:
    """The source that `cfg.source` names. Only that one's libraries are imported.

    Raises:
        UserError: the folder, file, dataset or distribution is not there. The texts are checked
            while they are read.
    """
    if cfg.mixture:
        from scalingnote_jax.data.sources.mixture import MixtureSource

        return MixtureSource(cfg, open_source)
    if cfg.source == "none":
        return NoTexts()
    if cfg.source == "beir":
        from scalingnote_jax.data.sources.beir import BeirSource

        return BeirSource(cfg)
    if cfg.source == "msmarco":
        from scalingnote_jax.data.sources.msmarco import MsmarcoSource

        return MsmarcoSource(cfg)
    if cfg.source == "ir_datasets":
        from scalingnote_jax.data.sources.irds import IrdsSource

        return IrdsSource(cfg)
    if cfg.source == "pairs":
        from scalingnote_jax.data.sources.pair_files import file_rows
        from scalingnote_jax.data.sources.pairs import PairSource

        return PairSource(cfg, file_rows(cfg))
    if cfg.source == "tfds":
        from scalingnote_jax.data.sources.pair_tfds import tfds_rows
        from scalingnote_jax.data.sources.pairs import PairSource

        return PairSource(cfg, tfds_rows(cfg))
    from scalingnote_jax.data.sources.pydocs import PydocsSource

    return PydocsSource(cfg)
