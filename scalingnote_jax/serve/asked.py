"""What a request's body asks for: read from JSON, every field checked, or refused in one line.

Nothing here knows a tower or an index; what only these can judge (a vector's width, the number of
documents) is checked by `live.py`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, cast, get_args

import numpy as np

from scalingnote_jax.errors import UserError
from scalingnote_jax.retrieval.scann.scann_index import DEFAULT_K
from scalingnote_jax.retrieval.searcher import SearchMode
from scalingnote_jax.serve.refused import Refused, said, wrong
from scalingnote_jax.serve.server_limits import Limits
from scalingnote_jax.vectors.given_texts import given_queries

Side = Literal["query", "document"]
SIDES, MODES = get_args(Side), get_args(SearchMode)

EMBED_FIELDS = (
    "inputs", "normalize", "truncate", "truncation_direction", "prompt_name", "dimensions",
    "input_type", "model", "collection",
)  # fmt: skip
OPENAI_FIELDS = (
    "input", "model", "encoding_format", "dimensions", "user", "input_type", "collection",
)  # fmt: skip
SEARCH_FIELDS = ("query", "vector", "k", "mode", "texts", "model", "collection")


@dataclass(frozen=True)
class EmbedAsked:
    """Texts to be turned into vectors.

    Attributes:
        side: whose tower; None: not said.
        model: the name that was given, if any.
        dimensions: of the vectors; None: all.
        normalize: whether they get length 1.
        truncate: whether a text that is too long is cut, or else refused.
        collection: of a mixture, for its prompt.
        base64: whether OpenAI's client wants the numbers so.
    """

    texts: list[str]
    side: Side | None
    model: str | None
    dimensions: int | None
    normalize: bool = True
    truncate: bool = True
    collection: str | None = None
    base64: bool = False


@dataclass(frozen=True)
class SearchAsked:
    """Queries to be answered: texts, or vectors [n, D] of the query tower, of which one is None."""

    texts: list[str] | None
    vectors: np.ndarray | None
    k: int
    mode: SearchMode
    with_texts: bool
    model: str | None
    collection: str | None


def read_json(body: bytes) -> dict[str, Any]:
    """The body, which is a JSON object. NaN and Infinity are no JSON."""
    try:
        values = json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise Refused(400, "body: nested too deeply; expected a JSON object; send one") from None
    except ValueError as e:
        given = "empty" if not body.strip() else f"not JSON ({e})"
        raise Refused(400, f"body: {given}; expected a JSON object; send one") from None
    if not isinstance(values, dict):
        raise Refused(400, f"body: {said(values)}; expected a JSON object; send one")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def embed_asked(values: dict[str, Any], limits: Limits) -> EmbedAsked:
    """A request of Text Embeddings Inference's `/embed`. `prompt_name` says the side, as
    `input_type` does.
    """
    known_fields(values, EMBED_FIELDS)
    if _choice(values, "truncation_direction", ("Right", "Left")) == "Left":
        field, fix = "truncation_direction", "leave it out"
        raise wrong(field, "'Left'", "'Right', as the tower was trained", fix)
    side = _choice(values, "input_type", SIDES) or _choice(values, "prompt_name", SIDES)
    return EmbedAsked(
        _texts(values, "inputs", limits),
        cast(Side | None, side),
        string_of(values, "model"),
        _whole(values, "dimensions", 1, None),
        _flag(values, "normalize", True),
        _flag(values, "truncate", True),
        string_of(values, "collection"),
    )


def openai_asked(values: dict[str, Any], limits: Limits) -> EmbedAsked:
    """A request of OpenAI's `/v1/embeddings`."""
    known_fields(values, OPENAI_FIELDS)
    if "model" not in values:
        raise wrong("model", "not there", "the name of a model", "see GET /v1/models")
    return EmbedAsked(
        _texts(values, "input", limits),
        cast(Side | None, _choice(values, "input_type", SIDES)),
        string_of(values, "model"),
        _whole(values, "dimensions", 1, None),
        collection=string_of(values, "collection"),
        base64=_choice(values, "encoding_format", ("float", "base64")) == "base64",
    )


def search_asked(values: dict[str, Any], limits: Limits) -> SearchAsked:
    """A request of `/search`."""
    known_fields(values, SEARCH_FIELDS)
    if ("query" in values) == ("vector" in values):
        given = "both" if "query" in values else "neither"
        raise wrong("query, vector", given, "one of the two", "send a text or a vector")
    by_text = "query" in values
    return SearchAsked(
        _texts(values, "query", limits) if by_text else None,
        None if by_text else _vectors(values, limits),
        _whole(values, "k", 1, limits.k) or DEFAULT_K,
        cast(SearchMode, _choice(values, "mode", MODES) or "dense"),
        _flag(values, "texts", True),
        string_of(values, "model"),
        string_of(values, "collection"),
    )


def known_fields(values: dict[str, Any], names: Collection[str]) -> None:
    """Refuses a field of another name, and says the nearest."""
    for name in values:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            fix = f"did you mean {near[0]!r}?" if near else "leave it out"
            raise wrong(name[:40], "no field of this request", f"one of {', '.join(names)}", fix)


def _texts(values: dict[str, Any], field: str, limits: Limits) -> list[str]:
    given = values.get(field)
    if given is None:
        fix = f'send {{"{field}": "…"}}'
        raise wrong(field, "null" if field in values else "not there", "a text or a list", fix)
    if not isinstance(given, str | list):
        raise wrong(field, said(given), "a text or a list of texts", "change it")
    texts = [given] if isinstance(given, str) else given
    _count(field, len(texts), limits, "texts")
    try:
        texts = given_queries(texts, field)
    except UserError as e:
        raise Refused(422, str(e), field) from None
    for text in texts:
        if not text.strip():
            raise wrong(field, "an empty text", "some words", "leave it out")
        if len(text) > limits.text_chars:
            most = f"at most {limits.text_chars} in a text"
            raise wrong(field, f"{len(text)} characters", most, "shorten it", status=413)
    return texts


def _count(field: str, count: int, limits: Limits, unit: str) -> None:
    if count == 0:
        raise wrong(field, "an empty list", f"1 to {limits.inputs} {unit}", "send some")
    if count > limits.inputs:
        most = f"at most {limits.inputs} in a request"
        raise wrong(field, f"{count} {unit}", most, "send several requests", status=413)


def _vectors(values: dict[str, Any], limits: Limits) -> np.ndarray:
    """float32 [n, D], finite and not zero; one list of numbers is one vector."""
    given = values["vector"]
    expected, fix = "a list of numbers, or of such lists of one length", "send such a list"
    if not isinstance(given, list) or not given:
        raise wrong("vector", "an empty list" if given == [] else said(given), expected, fix)
    rows = given if isinstance(given[0], list) else [given]
    _count("vector", len(rows), limits, "vectors")
    for row in rows:
        if not isinstance(row, list) or len(row) != len(rows[0]) or not row:
            raise wrong("vector", "rows that differ, or an empty one", expected, fix)
        for x in row:
            if isinstance(x, bool) or not isinstance(x, int | float):
                raise wrong("vector", f"{said(x)} among the numbers", expected, fix)
    try:
        array = np.array(rows, np.float64)
    except OverflowError:  # a whole number of hundreds of digits
        array = np.full((1, 1), np.inf)
    lengths = np.linalg.norm(array, axis=1)
    if not np.isfinite(lengths).all() or not (lengths > 0).all():
        given_here = "a vector that is zero, or has numbers that are too large"
        raise wrong("vector", given_here, "vectors with a direction", "look where they come from")
    return (array / lengths[:, None]).astype(np.float32)


def _choice(values: dict[str, Any], field: str, names: tuple[str, ...]) -> str | None:
    given = values.get(field)
    if given is not None and (not isinstance(given, str) or given not in names):
        shown = " or ".join(repr(name) for name in names)
        raise wrong(field, said(given), shown, "name one of them")
    return given


def string_of(values: dict[str, Any], field: str) -> str | None:
    """A field that is a name, or left out."""
    given = values.get(field)
    if given is not None and not isinstance(given, str):
        raise wrong(field, said(given), "a name", "change it")
    if given and not given.isprintable():  # half of a surrogate pair too, a zero byte
        raise wrong(field, repr(given[:40]), "printable characters", "change it")
    return given


def _flag(values: dict[str, Any], field: str, default: bool) -> bool:
    given = values.get(field)
    if given is not None and not isinstance(given, bool):
        raise wrong(field, said(given), "true or false", "change it")
    return default if given is None else given


def _whole(values: dict[str, Any], field: str, least: int, most: int | None) -> int | None:
    given = values.get(field)
    if given is None:
        return None
    whole = isinstance(given, int) and not isinstance(given, bool)
    if not whole or given < least or (most is not None and given > most):
        expected = f"{least} to {most}" if most else f"a whole number of at least {least}"
        raise wrong(field, said(given), expected, "change it")
    return int(given)
