"""The query texts of stage 2 with the teacher's vectors of them. Not for who learns from them:
`train/stage2.py`; not for those that others have made: `brought/teacher_vectors.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from scalingnote_jax.config import DistillConfig, EncodeConfig
from scalingnote_jax.data.augment.query_texts import QueryTexts, query_texts
from scalingnote_jax.data.dataset import Collection
from scalingnote_jax.vectors.encode import text_vectors
from scalingnote_jax.vectors.store import VectorStore
from scalingnote_jax.vectors.trained import TrainedTower
from scalingnote_jax.workflow.engine import Place


@dataclass(frozen=True)
class Taught:
    """What a student learns from.

    Attributes:
        texts: those that are learned.
        watched: others, that are only watched.
        vectors: the teacher's raw ones, of the former and behind them of the latter.
    """

    texts: QueryTexts
    watched: list[str]
    vectors: VectorStore


def taught_by_tower(
    cfg: DistillConfig,
    collection: Collection,
    teacher: TrainedTower,
    encode: EncodeConfig,
    seed: int,
    place: Place,
) -> Taught:
    """The config's texts, encoded by the teacher's query tower, or as that did it before."""
    texts = query_texts(cfg, collection, seed, collection.query_prompts.values())
    watched = texts.probe(cfg.probe_queries, seed)
    both = [*texts.learned, *watched]
    vectors = text_vectors(teacher, both, "distill", cfg.cache_dtype, encode, place)
    return Taught(texts, watched, vectors)
