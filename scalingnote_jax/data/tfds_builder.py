"""The collection as a TFDS dataset: three configs (corpus, queries, qrels) in ArrayRecord files.

TensorFlow is not needed and never imported. Importing TFDS takes a second: import this module
where data is written, not at the top. Not for checks (`survey.py`) or reading (`collection.py`).
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from scalingnote_jax.data.collection import TFDS_VERSION

_TEXT = tfds.features.Text
_FEATURES = {
    "corpus": {"id": _TEXT(), "title": _TEXT(), "text": _TEXT()},
    "queries": {"id": _TEXT(), "text": _TEXT()},
    "qrels": {  # one record for each query of a split
        "query_id": _TEXT(),
        "doc_ids": tfds.features.Sequence(_TEXT()),
        "grades": tfds.features.Sequence(np.int32),
    },
}


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Nothing: TFDS would ask a server about its own datasets and leave a folder in /tmp."""


class Retrieval(tfds.core.GeneratorBasedBuilder):
    """Writes what `examples` yields, by split, in that order."""

    VERSION = tfds.core.Version(TFDS_VERSION)
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in _FEATURES]  # noqa: RUF012

    def __init__(self, *, examples: Mapping[str, Iterator[dict[str, Any]]], **kwargs: Any):
        self._examples = examples
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return _Info(
            builder=self,
            description="Documents, queries and graded judgements of one collection.",
            features=tfds.features.FeaturesDict(_FEATURES[self.builder_config.name]),
            disable_shuffling=True,  # row numbers are the order of the source
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Any]]]:
        del dl_manager  # nothing is downloaded
        return {split: enumerate(examples) for split, examples in self._examples.items()}

    def _generate_examples(self) -> Iterator[tuple[int, Any]]:
        raise NotImplementedError("examples come with the constructor")


def write(config: str, data_dir: Path, examples: Mapping[str, Iterator[dict[str, Any]]]) -> None:
    """Writes one config below `data_dir`, quietly: TFDS's own bars and greetings are turned off."""
    tfds.disable_progress_bar()
    builder = Retrieval(examples=examples, config=config, data_dir=data_dir)
    # TFDS makes the folder for downloads, of which there are none.
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as downloads:
        builder.download_and_prepare(download_dir=downloads)
