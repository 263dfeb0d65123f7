"""`scalingnote config`: what is said of each field."""

from __future__ import annotations

import dataclasses

import pytest

from scalingnote_jax.config import Config
from scalingnote_jax.config.describe import entries, listing, meanings
from scalingnote_jax.config.hints import field_hints, sections
from scalingnote_jax.config.load import load_config
from scalingnote_jax.errors import UserError


def all_sections(kind: type, found: dict[type, None]) -> dict[type, None]:
    """Every dataclass below a config's."""
    found.setdefault(kind)
    for hint in field_hints(kind).values():
        for inner in sections(hint):
            all_sections(inner, found)
    return found


def test_every_field_has_a_meaning_of_its_own() -> None:
    kinds = all_sections(Config, {})
    assert len(kinds) == 20
    for kind in kinds:
        said = meanings(kind)
        assert set(said) == {field.name for field in dataclasses.fields(kind)}
        assert all(said.values()), (kind, [name for name in said if not said[name]])


def test_what_is_listed() -> None:
    whole = listing()
    assert max(map(len, whole.splitlines())) <= 80
    named = [entry.name for entry in entries() if not entry.name.endswith(".*")]
    assert len(set(named)) > 200
    text = "--eval.depth = 100\n    (an integer, 1 or more)\n    documents kept per query"
    assert text in listing("eval")
    assert text in whole
    assert "--name (no default)" in whole
    assert "--train.optim.learning_rate = 0.0001" in listing("train.optim")
    assert "--train.duration" not in listing("train.optim")
    # Of three sections with the same fields, one is listed in full
    assert "--refine.optim.learning_rate = 3e-05\n    as --train.optim.learning_rate" in whole
    assert "--refine.optim.clip_norm" not in whole
    assert "--refine.optim.clip_norm = 1.0" in listing("refine")
    assert "hidden_size = 64   [of a BertShape]" in listing("teacher.query.shape")


def test_the_values_of_a_config_are_shown() -> None:
    text = listing("distill", load_config("quickstart"))
    assert "--distill.queries = train,sentences\n" in text
    assert "--distill.query_weights = (none)\n" in text


def test_a_section_that_is_none() -> None:
    with pytest.raises(UserError, match=r"no section 'trian'; expected name, seed, data, teacher"):
        listing("trian")
