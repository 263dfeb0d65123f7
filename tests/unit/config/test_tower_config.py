"""Tower configs that cannot work: each is refused in one line that names the field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scalingnote_jax.config import BertShape, DecoderShape, TextConfig, TowerConfig
from scalingnote_jax.errors import UserError
from scalingnote_jax.models.tower import tower_def
from scalingnote_jax.text.contract import check_tokenizer

DECODER = DecoderShape(vocab_size=50, num_layers=3, num_heads=6, num_kv_heads=2)
BERT = BertShape(vocab_size=50, hidden_size=24, num_heads=4, max_positions=64)

BAD = [
    ({"shape": None}, "--q.shape: none"),
    ({"num_layers": 4}, "--q.num_layers: num_layers 4; expected 0 (all) to 3"),
    ({"num_layers": -2}, "--q.num_layers: -2; expected -1 or more"),
    ({"pooling": "cls"}, "--q.pooling: 'cls' on a decoder"),
    ({"pooling": "max"}, "--q.pooling: 'max'; expected one of ('last', 'mean', 'cls', 'marker')"),
    ({"pooling": "marker", "bidirectional": True}, "--q.pooling: 'marker' where tokens see those"),
    ({"pooling": "marker", "shape": BERT}, "--q.pooling: 'marker' where tokens see those"),
    ({"bidirectional": True, "shape": BERT}, "--q.bidirectional: true for an encoder"),
    ({"text": TextConfig(title_tokens=-1)}, "--q.text.title_tokens: -1; expected 0 or more"),
    ({"dtype": "float16"}, "--q.dtype"),
    ({"remat": "all"}, "--q.remat"),
    ({"projection": -1}, "--q.projection"),
    ({"text": TextConfig(max_tokens=64, buckets=(16, 32))}, "equal to max_tokens"),
    ({"text": TextConfig(max_tokens=16, buckets=(32, 16))}, "rising"),
    ({"text": TextConfig(max_tokens=16, buckets=())}, "rising"),
    ({"shape": replace(DECODER, num_kv_heads=4)}, "--q.shape.num_kv_heads: 4; expected a divisor"),
    ({"shape": replace(DECODER, head_dim=7)}, "--q.shape.head_dim: 7; expected an even"),
    ({"shape": replace(DECODER, vocab_size=0)}, "--q.shape.vocab_size: 0"),
    ({"shape": replace(BERT, num_heads=5)}, "--q.shape.num_heads: 5; expected a divisor"),
    ({"shape": replace(BERT, max_positions=63)}, "--q.text.max_tokens: 64; expected at most 63"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[m for _, m in BAD])
def test_config_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        tower_def(TowerConfig(**{"weights": "random", "shape": DECODER, **changes}), "q")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_first_token_may_be_pooled_where_it_sees_the_text() -> None:
    tower_def(TowerConfig(weights="random", shape=DECODER, pooling="cls", bidirectional=True))


def test_tokenizer_must_fit_the_table() -> None:
    class Fake:
        vocab_size, num_special = 51, 2

    cfg = TowerConfig(text=TextConfig(max_tokens=2, buckets=(2,)))
    with pytest.raises(UserError, match="ids up to 50; expected ids below 50"):
        check_tokenizer(cfg, DECODER, Fake(), "q")  # type: ignore[arg-type]
    Fake.vocab_size = 50
    with pytest.raises(UserError, match=r"--q.text.max_tokens: 2; expected more than the 2"):
        check_tokenizer(cfg, DECODER, Fake(), "q")  # type: ignore[arg-type]
    check_tokenizer(replace(cfg, text=TextConfig()), DECODER, Fake(), "q")  # type: ignore[arg-type]
