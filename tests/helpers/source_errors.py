"""What a person is told about a source that is not as it should be."""

from __future__ import annotations

import pytest

from scalingnote_jax.config import DataConfig
from scalingnote_jax.data.sources import open_source
from scalingnote_jax.data.survey import survey
from scalingnote_jax.errors import UserError


def said_of(cfg: DataConfig) -> str:
    """The one line with which reading the source that `cfg` names ends."""
    with pytest.raises(UserError) as caught:
        survey(open_source(cfg), cfg)
    said = str(caught.value)
    assert "\n" not in said
    assert said.count("; ") >= 2, "given; expected; what to do next"
    said.encode()  # can be printed
    return said
