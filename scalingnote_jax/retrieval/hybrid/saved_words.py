"""BM25's index in a workdir: made once for a corpus, then memory-mapped."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.collection import Collection
from scalingnote_jax.data.sources.mixture import bare
from scalingnote_jax.errors import UserError
from scalingnote_jax.progress import say
from scalingnote_jax.retrieval.bm25 import Bm25
from scalingnote_jax.version import __version__
from scalingnote_jax.workflow.artefact import partial_folder, put_in_place
from scalingnote_jax.workflow.workdir import is_done, mark_done


def saved_words(folder: Path, collection: Collection, data: DataConfig) -> Bm25:
    """The index of the collection's documents, from `folder` if it is there whole; else it is made
    and written there, or only held in memory where nothing may be written.
    """
    inputs = f"{__version__} {collection.fingerprint}"
    try:
        if is_done(folder, inputs):
            return Bm25.open(folder, collection.doc_ids)
    except UserError:  # a damaged marker: made again
        pass
    documents: Any = bare(data, collection.documents)
    index = Bm25(documents)
    try:
        partial = partial_folder(folder.with_name(f"{folder.name}.{os.getpid()}"))
        try:
            index.save(partial)
            mark_done(partial, inputs, inputs)
            put_in_place(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as e:
        say(f"words: {folder} cannot be written ({e}); the index is held in memory")
    return index
