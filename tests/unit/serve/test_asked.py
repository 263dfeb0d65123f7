"""What bodies may say; and that whatever else they say is refused in one line."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")

from scalingnote_jax.serve.asked import embed_asked, openai_asked, read_json, search_asked
from scalingnote_jax.serve.refused import Refused
from scalingnote_jax.serve.server_limits import Limits

LIMITS = Limits(inputs=3, text_chars=10, k=20)
DEEP = b'{"a":' * 100_000


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "body: empty"),
        (b"{", "body: not JSON"),
        (b"[1]", "body: a list of 1; expected a JSON object"),
        (b"null", "body: null"),
        (b"\xff\xfe", "body: not JSON"),
        (b'{"query": NaN}', "NaN is no JSON number"),
        (b'{"query": -Infinity}', "-Infinity is no JSON number"),
        (b'{"k": ' + b"9" * 5000 + b"}", "body: not JSON"),
        (DEEP, "body: nested too deeply"),
    ],
)
def test_a_body_that_is_no_object_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(Refused) as e:
        read_json(body)
    assert says in str(e.value)
    assert e.value.status == 400
    assert "\n" not in str(e.value)


BAD_EMBED = [
    ({}, "inputs: not there"),
    ({"inputs": None}, "inputs: null"),
    ({"inputs": []}, "inputs: an empty list; expected 1 to 3 texts"),
    ({"inputs": ""}, "inputs: an empty text"),
    ({"inputs": ["a", " \t"]}, "inputs: an empty text"),
    ({"inputs": 7}, "inputs: 7; expected a text or a list of texts"),
    ({"inputs": ["a", 7]}, "inputs: query 1: a value of type int"),
    ({"inputs": [["a", "b"]]}, "inputs: query 0: a value of type list"),
    ({"inputs": "\ud800"}, "half of a surrogate pair"),
    ({"inputs": "x" * 11}, "inputs: 11 characters; expected at most 10 in a text"),
    ({"inputs": ["a"] * 4}, "inputs: 4 texts; expected at most 3 in a request"),
    ({"inputs": "a", "dimensions": 0}, "dimensions: 0; expected a whole number of at least 1"),
    ({"inputs": "a", "dimensions": True}, "dimensions: true"),
    ({"inputs": "a", "dimensions": 2.5}, "dimensions: 2.5"),
    ({"inputs": "a", "normalize": "yes"}, "normalize: 'yes'; expected true or false"),
    ({"inputs": "a", "input_type": "passage"}, "expected 'query' or 'document'"),
    ({"inputs": "a", "truncation_direction": "Left"}, "expected 'Right'"),
    ({"inputs": "a", "model": 3}, "model: 3; expected a name"),
    ({"input": "a"}, "input: no field of this request"),
    ({"inputs": "a", "dimension": 3}, "did you mean 'dimensions'?"),
]


@pytest.mark.parametrize(("values", "says"), BAD_EMBED)
def test_a_bad_embed_request_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(Refused) as e:
        embed_asked(values, LIMITS)
    assert says in str(e.value)
    assert e.value.status == (413 if "at most" in says else 422)


BAD_SEARCH = [
    ({}, "query, vector: neither; expected one of the two"),
    ({"query": "a", "vector": [1]}, "query, vector: both"),
    ({"query": "a", "k": 0}, "k: 0; expected 1 to 20"),
    ({"query": "a", "k": 21}, "k: 21; expected 1 to 20"),
    ({"query": "a", "k": "5"}, "k: '5'"),
    ({"query": "a", "mode": "both"}, "mode: 'both'; expected 'dense'"),
    ({"vector": []}, "vector: an empty list"),
    ({"vector": [[]]}, "vector: rows that differ, or an empty one"),
    ({"vector": [[1, 2], [1]]}, "vector: rows that differ"),
    ({"vector": [1, "2"]}, "vector: '2' among the numbers"),
    ({"vector": [1, None]}, "vector: null among the numbers"),
    ({"vector": [0, 0]}, "vector: a vector that is zero"),
    ({"vector": [1e999, 1]}, "numbers that are too large"),
    ({"vector": [10**400, 1]}, "numbers that are too large"),
    ({"vector": [[1]] * 4}, "vector: 4 vectors; expected at most 3"),
    ({"vector": {"a": 1}}, "vector: an object"),
]


@pytest.mark.parametrize(("values", "says"), BAD_SEARCH)
def test_a_bad_search_request_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(Refused) as e:
        search_asked(values, LIMITS)
    assert says in str(e.value)


def test_what_is_left_out_has_its_default() -> None:
    asked = search_asked({"query": "a"}, LIMITS)
    assert (asked.texts, asked.k, asked.mode, asked.with_texts) == (["a"], 10, "dense", True)
    embed = embed_asked({"inputs": ["a", "b"], "prompt_name": "document"}, LIMITS)
    assert (embed.texts, embed.side, embed.normalize) == (["a", "b"], "document", True)


def test_a_vector_gets_length_one() -> None:
    asked = search_asked({"vector": [3, 4]}, LIMITS)
    np.testing.assert_allclose(asked.vectors, [[0.6, 0.8]], rtol=1e-6)


def test_openai_needs_a_model_and_no_token_ids() -> None:
    with pytest.raises(Refused, match="model: not there"):
        openai_asked({"input": "a"}, LIMITS)
    with pytest.raises(Refused, match="a value of type int; expected a text"):
        openai_asked({"input": [1, 2], "model": "m"}, LIMITS)


def test_both_shapes_of_errors() -> None:
    error = Refused(429, "full")
    assert error.body(openai=False) == {"error": "full", "error_type": "overloaded"}
    assert error.body(openai=True)["error"]["type"] == "rate_limit_error"
    assert json.loads(json.dumps(error.body(openai=True)))["error"]["message"] == "full"
