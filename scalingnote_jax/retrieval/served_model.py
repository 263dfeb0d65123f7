"""The towers that are shipped, from Python: `load` and `Model`. For searching: `searcher.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from scalingnote_jax.config import DataConfig, EncodeConfig, MeshConfig
from scalingnote_jax.config.forms.mixture_entry import prompt_of
from scalingnote_jax.devices.mesh import keep_programs, make_mesh
from scalingnote_jax.errors import bad_input
from scalingnote_jax.vectors.encoder import Encoder, load_encoder
from scalingnote_jax.vectors.given_texts import given_documents, given_queries
from scalingnote_jax.vectors.kept_tower import kept_encoder
from scalingnote_jax.vectors.pairing import run_towers, served_config
from scalingnote_jax.vectors.trained import TrainedTower
from scalingnote_jax.workflow.workdir import Workdir


def served_mesh() -> Mesh:
    """One device: a server answers single queries, which no mesh could split. What is compiled for
    it is kept on disk, since a process that answers one query would do little else.
    """
    keep_programs(0)
    return make_mesh(MeshConfig(), jax.local_devices()[:1])


class Model:
    """Two towers that go together: `encode_queries` by the shipped one (without stage 2 the
    teacher's query tower), `encode_documents` by the teacher's document tower. Each is loaded when
    it is first asked for.
    """

    def __init__(
        self,
        shipped: str,
        query: Callable[[], Encoder],
        doc: Callable[[], Encoder],
        data: DataConfig | None = None,
        identity: str = "",
    ):
        """
        Args:
            shipped: what the query tower is called.
            query, doc: load the towers.
            data: that they were trained on, for the prompts of a mixture's collections; None: texts
                have theirs already.
        """
        self.shipped, self._load_query, self._load_doc, self.data = shipped, query, doc, data
        self.identity = identity

    def __repr__(self) -> str:
        return f"Model(queries by {self.shipped!r}, documents by 'teacher')"

    @cached_property
    def query_encoder(self) -> Encoder:
        """The tower of `encode_queries`."""
        return self._load_query()

    @cached_property
    def doc_encoder(self) -> Encoder:
        """The tower of `encode_documents`."""
        return self._load_doc()

    def encode_queries(
        self, texts: str | Iterable[str], collection: str | None = None
    ) -> np.ndarray:
        """[n, D] (or `encode.dim`) float32 unit vectors of queries, by the shipped tower.

        Args:
            texts: one string is one query.
            collection: of a mixture, whose `data.query_prompts` are put in front; needed where they
                differ.

        Raises:
            UserError: something else than texts, or no collection where one is needed.
        """
        given = given_queries(texts, "encode_queries")
        prompt = self.prompt("query_prompts", collection)
        encoder = self.query_encoder
        return encoder.unit(encoder.encode([prompt + text for text in given]))

    def encode_documents(self, documents: Any, collection: str | None = None) -> np.ndarray:
        """[n, D] float32 unit vectors of documents, by the teacher's document tower.

        Args:
            documents: texts, (title, text) pairs or mappings {"title", "text"}; one string or
                mapping is one document.
            collection: as for `encode_queries`, with `data.doc_prompts`.

        Raises:
            UserError: as `encode_queries`.
        """
        given = given_documents(documents, "encode_documents")
        prompt = self.prompt("doc_prompts", collection)
        encoder = self.doc_encoder
        pairs = [(title, prompt + text if text.strip() else text) for title, text in given]
        return encoder.unit(encoder.encode(pairs))

    def prompt(self, field: str, collection: str | None) -> str:
        """What stands in front of a text.

        Args:
            field: "query_prompts" or "doc_prompts".
            collection: as for `encode_queries`.

        Raises:
            UserError: no collection where one is needed, or an unknown one.
        """
        return prompt_of(self.data, field, collection) if self.data is not None else ""


def load(workdir: str | Path, int8: bool = False, student: str | Path | None = None) -> Model:
    """The towers of a workdir that `scalingnote run` (or `train` and `distill`) has finished.

    Args:
        student: another workdir of the same teacher, or the folder of such a student: it is taken
            instead of the workdir's own.
        int8: holds the student's linear weights in int8, for less memory. What that costs, the
            evaluation says in its row "student_int8" (`eval.systems`).

    Raises:
        UserError: the student learned from another teacher than the one that is there.
    """
    return open_model(Workdir(workdir, student), int8)


def open_model(paths: Workdir, int8: bool, teacher: str | None = None) -> Model:
    """As `load`. `teacher`: as for `served_config`."""
    config = served_config(paths, teacher)
    stages = config.stages
    if int8 and not stages.distills:
        given, fix = "a workdir without stage 2", "leave int8 out"
        raise bad_input("int8", given, "a student to hold in int8", fix)
    shipped = "student_int8" if int8 else stages.shipped
    towers = run_towers(config.teacher, config.distill.student, config.seed, stages, paths)
    mesh, query = served_mesh(), towers.get(shipped, "query")
    return Model(
        shipped,
        lambda: _shipped_encoder(query, config.encode, mesh),
        lambda: load_encoder(towers.get("teacher", "doc"), config.encode, mesh),
        config.data,
        query.identity,
    )


def _shipped_encoder(tower: TrainedTower, cfg: EncodeConfig, mesh: Mesh) -> Encoder:
    assert tower.folder is not None, "what is shipped was trained"
    return kept_encoder(tower, cfg, mesh, tower.folder / "kept")
